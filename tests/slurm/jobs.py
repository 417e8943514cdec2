"""Jobs of the batch script on a cluster.Cluster, with ranks on CPUs, and what became of them."""
import contextlib
import os
import subprocess

import cluster  # and with it the folder of processes
from processes import wait_until


class Jobs:
    def __init__(self, program, folder, ranks, nodes=1):
        """`ranks` on each node; small_job.write_job has filled the folder."""
        self.program, self.folder, self.ranks, self.nodes = program, folder, ranks, nodes
        self.cluster = cluster.Cluster(cpus=ranks, nodes=nodes)

    def write_script(self, run_dir, *words):
        """The script as users get it."""
        path = self.folder / f"{run_dir}.sbatch"
        subprocess.run([self.program, "slurm", "--config", "config.json", "--nodes", str(self.nodes), "--gpus-per-node", "0",
                        "--ranks-per-node", str(self.ranks), "--cpus-per-rank", "1", "--time", "30", "--run-dir", run_dir, "--job-name", run_dir,
                        "--program", self.program, *words, "--out", path], cwd=self.folder, check=True, capture_output=True)
        return path

    def submit(self, script, *options, words=(), **variables):
        out = self.cluster.call("env", *[f"{key}={value}" for key, value in variables.items()], "sbatch", "--parsable", *options, script, *words,
                                cwd=self.folder)
        return int(out)

    def state(self, job):
        return self.cluster.job(job)["JobState"]

    def end_of(self, job):
        """State and exit code once the job has ended for good."""
        wait_until(lambda: self.state(job) in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"), f"the end of job {job}",
                   pause=0.1)
        return self.state(job), self.cluster.job(job)["ExitCode"].split(":")[0]

    def output(self, name):
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{name}-*.log")))

    def rank_processes(self):
        def is_rank(pid):
            with contextlib.suppress(OSError):
                return os.readlink(f"/proc/{pid}/exe") == self.program
            return False
        return [pid for pid in cluster.descendants() if is_rank(pid)]
