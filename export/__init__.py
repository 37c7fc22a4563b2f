"""From a training to a bundle."""

import mcdiff_batch.engine  # noqa: F401 - before any library, which it silences
