"""[alerts]: what it may say, and the one message for what it may not."""

from __future__ import annotations

import pytest

from stream.alerting import Alertmanager, Silence, Webhook
from stream.alerts.consume import _credentials
from stream.config import ConfigError, parse
from tests.test_config import CLICKS, configured, refusal

FULL = """
[alerts]
group_by = "item"
cooldown = "5m"
stale_after = "1d"
[alerts.alertmanager]
url = "http://alertmanager:9093/"
authorization = "Bearer x"
repost = "10s"
expires = "2m"
[[alerts.webhooks]]
name = "pager"
url = "https://example.com/hook"
secret = "s"
severity = "critical"
give_up_after = "30m"
[[alerts.silences]]
item = "AB-*"
starts = 2026-11-27T00:00:00Z
ends = "2026-11-30T00:00:00+01:00"
[[alerts.silences]]
name = "nights"
severity = "warning"
days = ["sat", "sun"]
from = "22:00"
until = "06:30"
"""


def test_all_of_it() -> None:
    alerts = configured(CLICKS + FULL).alerts
    assert (alerts.group_by, alerts.cooldown_ms, alerts.stale_after_ms) == ("item", 300_000, 86_400_000)
    assert alerts.alertmanager == Alertmanager("http://alertmanager:9093", "Bearer x", 10_000, 120_000)
    assert alerts.webhooks == (
        Webhook(name="pager", url="https://example.com/hook", secret="s", severity="critical", give_up_after_ms=1_800_000),
    )
    sale, nights = alerts.silences
    assert (sale.item, sale.starts_ms, sale.ends_ms) == ("AB-*", 1_795_737_600_000, 1_795_993_200_000)
    assert nights == Silence(name="nights", severity="warning", days=("sat", "sun"), from_minute=1320, until_minute=390)


def test_alerts_shape_no_state() -> None:
    assert configured(CLICKS + FULL).checksum() == configured(CLICKS).checksum()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[alerts]\ncool_down = "5m"', "did you mean alerts.cooldown"),
        ('[alerts]\ngroup_by = "brand"', "one of category, item"),
        ('[alerts.alertmanager]\nurl = "alertmanager:9093"', "alerts.alertmanager.url must be an http or https URL"),
        ('[alerts.alertmanager]\nurl = "http://a"\nrepost = "4m"', "at least twice"),
        ('[[alerts.webhooks]]\nurl = "http://a"', "alerts.webhooks[0].name is missing"),
        ('[[alerts.webhooks]]\nname = "alertmanager"\nurl = "http://a"', "nobody else's"),
        ('[[alerts.webhooks]]\nname = "a"\nurl = "http://a"\nsecret = "x"\nsecret_file = "y"', "exclude each other"),
        (
            '[[alerts.webhooks]]\nname = "a"\nurl = "http://a"\nsecret = "${NO_SUCH_SECRET}"',
            "alerts.webhooks[0].secret reads the environment",
        ),
        ("[[alerts.silences]]\n", "must say what it silences"),
        ('[[alerts.silences]]\nfrom = "22:00"', "both from and until"),
        ('[[alerts.silences]]\nfrom = "25:00"\nuntil = "06:00"', "a time of the day"),
        ('[[alerts.silences]]\nstarts = "2026-11-27T00:00:00"', "with its offset"),
        ('[[alerts.silences]]\nends = "2026-11-27T00:00:00Z"\nstarts = "2026-11-28T00:00:00Z"', "must be after"),
        ('[[alerts.silences]]\ndays = ["saturday"]', "an array of mon"),
    ],
)
def test_what_cannot_be_used(text: str, says: str) -> None:
    assert says in (_unset(text) if "NO_SUCH" in text else refusal(CLICKS + text))


def _unset(text: str) -> str:
    import tomllib

    from stream.tables import _expand

    with pytest.raises(ConfigError) as caught:
        parse(_expand(tomllib.loads(CLICKS + text), "", {}))
    return str(caught.value)


def test_a_password_in_an_address_is_not_repeated() -> None:
    assert "hunter2" not in refusal(CLICKS + '[alerts.alertmanager]\nurl = "ftp://me:hunter2@host"')


def test_who_we_are_in_the_readers_words() -> None:
    assert _credentials({}) is None
    plain = _credentials({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "u", "sasl.password": "p"})
    assert (plain.username, plain.password, plain.protocol.value) == ("u", "p", "SASL_PLAINTEXT")
    scram = _credentials({"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u", "sasl.password": "p"})
    assert scram.protocol.value == "SASL_SSL" and scram.ssl_context is not None
    assert _credentials({"security.protocol": "ssl"}).protocol.value == "SSL"
    with pytest.raises(ConfigError, match=r"sasl\.mechanism"):
        _credentials({"security.protocol": "sasl_ssl", "sasl.mechanism": "GSSAPI"})
    with pytest.raises(ConfigError, match="can be read"):
        _credentials({"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"})
