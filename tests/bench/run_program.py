"""How the benchmarks start what they time."""
import subprocess
import sys


def run(command, **options):
    """What it printed; ends this program when it fails."""
    command = [str(word) for word in command]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout[-2000:]}{result.stderr[-2000:]}\nfailed with {result.returncode}")
    return result.stdout
