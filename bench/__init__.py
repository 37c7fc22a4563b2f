"""Measurements and their results."""

import mcdiff_batch.engine  # noqa: F401 - before any library, which it silences
