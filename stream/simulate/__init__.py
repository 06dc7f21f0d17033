"""A simulated shop whose every intensity is known: messages for tests, demonstrations and benchmarks, and the truth beside them."""

from stream.simulate.messages import Messages
from stream.simulate.shop import Chunk, Shop, pace
from stream.simulate.spec import TOPICS, ShopSpec, benchmark_spec, demo_spec
from stream.simulate.truth import Rates, Truth, write

__all__ = ["TOPICS", "Chunk", "Messages", "Rates", "Shop", "ShopSpec", "Truth", "benchmark_spec", "demo_spec", "pace", "write"]
