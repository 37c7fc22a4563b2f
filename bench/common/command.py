"""The command `mcdiff-batch` of this Python, whatever is on the path."""

import sys

CLI = (sys.executable, "-c", "from mcdiff_batch.engine.start import main; main()")
