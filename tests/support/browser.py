"""The browser that `bench` drives too."""

from mcdiff_batch.bench.common.browser import CHROMIUM, Browser, chromium

__all__ = ["CHROMIUM", "Browser", "chromium"]
