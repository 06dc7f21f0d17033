"""What is left out of river's import is there for whoever asks for it afterwards."""

from __future__ import annotations

import subprocess
import sys

LEFT_OUT = ("scipy.stats", "scipy.ndimage", "river.tree", "river.drift.datasets", "river.datasets")
SCRIPT = f"""
import sys
import models.rivers
print([name for name in {LEFT_OUT} if name in sys.modules])
from river import drift, feature_extraction, preprocessing, tree
print(tree.HoeffdingTreeClassifier.__name__, type(drift.datasets.AirlinePassengers()).__name__)
print(feature_extraction.RandomTreesEmbedding(n_trees=1).transform_one({{"a": 1.0}}))
topics = preprocessing.LDA(n_components=2, number_of_documents=60)
topics.learn_one({{"x": 1, "y": 2}})
print(len(topics.transform_one({{"x": 1, "y": 2}})))
from scipy import ndimage, stats
print(ndimage.__name__, float(stats.norm.cdf(0.0)))
"""


def test_what_is_left_out_of_rivers_import_is_loaded_when_it_is_used() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "[]"
    assert said[1] == "HoeffdingTreeClassifier AirlinePassengers"
    assert said[2].startswith("{(0, ")
    assert said[3:] == ["2", "scipy.ndimage 0.5"]
