"""What README quotes: programs that measure, to be run by anybody."""

import signal
from multiprocessing import current_process

# Ctrl-C reaches a command's workers, too. It ends them (`benchmarks.command`), so they need not
# say anything; whatever else they import takes longer than this.
if current_process().name.startswith("SpawnProcess"):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
