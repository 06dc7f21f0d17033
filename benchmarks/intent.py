"""Purchase intent against what can be known and against its peers: a simulated shop with its oracle, the same after its conversion has halved,
and a multi-category shop's morning. `make intent`.

    python -m benchmarks.intent
    python -m benchmarks.intent --only rees46 --json intent.json

Prints each backtest's tables (`nowcart backtest --intent`), then what is asked of the engine beside what it reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shops import Verdict, data_file, print_verdicts
from stream.cli.main import main as nowcart
from stream.tables import UserError

ROOT = Path(__file__).resolve().parent.parent
SHOP = str(ROOT / "examples" / "simulated.toml")
RUNS: dict[str, list[str]] = {
    # Three and a half days of a shop; half of them trained on.
    "shop": ["--intent", SHOP, "--simulate", "1000000", "--shop", "rate=3.4"],
    # Twice the shop: a day after the change there must be enough buyers to see an error of a tenth.
    "changed": ["--intent", SHOP, "--simulate", "2000000", "--shop", "rate=6.8", "--train", "0.3", "--change", "0.35"],
    "rees46": ["--blocks", "5"],
}
_GAP = 'session_gap = "30m"'


def _arguments(name: str, folder: Path) -> list[str]:
    found = RUNS[name]
    if name == "rees46":  # a session gap of five minutes: the file is short
        text = (ROOT / "examples" / "rees46.toml").read_text(encoding="utf-8")
        assert _GAP in text
        config = folder / "rees46.toml"
        config.write_text(text.replace(_GAP, 'session_gap = "5m"'), encoding="utf-8")
        found = ["--intent", str(config), "--source", f"clicks={data_file('rees46_2019-10-01.csv')}", *found]
    return ["backtest", *found]


def _asked(name: str, table: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(what is asked, what was reached, whether that is enough)."""
    lines: list[tuple[str, str, bool]] = []
    models, positions = table["models"], [str(at) for at in table["settings"]["positions"]]
    mine = models["nowcart"]
    peers = [peer for peer in ("logistic_regression", "xgboost", "lightgbm") if peer in models]
    if name != "rees46":
        if name == "shop":
            gains = {at: mine[at]["gain"] for at in positions}
            text = ", ".join(f"{at}: {gain:.1%}" for at, gain in gains.items())
            lines.append(("at least 90 % of the oracle's gain after each number of events", text, min(gains.values()) >= 0.9))
        error = mine["overall"]["calibration_error_ratio"]
        known = models["oracle"]["overall"]["calibration_error_ratio"]
        lines.append(("calibration error at most 10 % of the base rate", f"{error:.1%} (the oracle's own: {known:.1%})", error <= 0.1))
        errors = {at: mine[at]["calibration_error_ratio"] for at in positions}
        text = ", ".join(f"{at}: {value:.1%}" for at, value in errors.items())
        lines.append(("at most 20 % after each number of events", text, max(errors.values()) <= 0.2))
    for peer in peers:
        gap = models[peer]["paired"]
        wanted = "better than" if name != "rees46" else "no worse, beyond its interval, than"
        good = gap["high"] < 0 if name != "rees46" else gap["low"] <= 0
        text = f"{gap['difference']:+.5f} [{gap['low']:+.5f}, {gap['high']:+.5f}]"
        lines.append((f"log loss {wanted} {peer}", text, good))
    named = table["next_items"]["methods"]
    hits = {method: found["hit_rate"] for method, found in named.items()}
    text = ", ".join(f"{method} {hit:.1%}" for method, hit in hits.items())
    lines.append((f"next item among {table['next_items']['named']}: best", text, hits["nowcart"] == max(hits.values())))
    return lines


def main() -> int:
    """Runs them; status 1 where something asked for was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", choices=sorted(RUNS), action="append", help="some of them")
    parser.add_argument("--json", type=Path, help="all tables")
    args = parser.parse_args()
    tables: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or RUNS:
            out = Path(folder) / f"{name}.json"
            print(f"\n== {name}\n", flush=True)
            try:
                status = nowcart([*_arguments(name, Path(folder)), "--json", str(out)])
            except UserError as error:
                print(error, file=sys.stderr)
                return 2
            if status:
                return status
            tables[name] = json.loads(out.read_text(encoding="utf-8"))
            verdicts += [Verdict(f"{name:8} {what}", reached, good) for what, reached, good in _asked(name, tables[name])]
    if args.json is not None:
        args.json.write_text(json.dumps(tables, indent=1), encoding="utf-8")
    return 0 if print_verdicts(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
