"""A real Slurm, with everything it needs in a folder of its own: configuration, munge key and socket, state, ports. Of one node, this machine,
or of several, which are hosts of tests/support/network.py. Needs root, slurmctld, slurmd and munged. Whatever it starts is a descendant of the calling
process and ends with it."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from network import Network, die_with_parent, libc  # noqa: E402
from ports import reserve_port  # noqa: E402
from processes import HANG, wait_until  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")


def why_not():
    """The reason why no cluster can be started here, or None."""
    missing = [name for name in PROGRAMS if not find(name)]
    if missing:
        return f"{', '.join(missing)} not installed (scripts/deps.sh --cluster-tests)"
    return None if os.geteuid() == 0 else "Slurm's daemons need root"


def find(name):
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def descendants():
    """Pids of all children, their children and so on."""
    children = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, left = [], [os.getpid()]
    while left:
        mine = children.get(left.pop(), [])
        found += mine
        left += mine
    return found


class Cluster:
    def __init__(self, cpus, nodes=1):
        """`cpus` of each node."""
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # steps, which the daemons detach, stay our descendants
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fbi-slurm-"))
        self.daemons, self.ports, self.network = [], [], None
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name != "SLURM_CONF"]:
            del self.environment[name]
        try:
            if nodes > 1:
                self.network = Network(["head", *(f"node{i + 1}" for i in range(nodes))], self.folder)
            self.start_munge()
            self.start_slurm(cpus)
        except BaseException:
            self.close()
            raise

    def start_munge(self):
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self.daemon("munged", "--foreground", "--force", f"--socket={files['socket']}", f"--key-file={key}", f"--pid-file={files['pid']}",
                    f"--log-file={files['log']}", f"--seed-file={files['seed']}", "--num-threads=2")
        wait_until(files["socket"].exists, "munged")

    def start_slurm(self, cpus):
        head, *nodes = self.network.names if self.network else [socket.gethostname().split(".")[0]] * 2
        address = self.network.address if self.network else lambda _: "127.0.0.1"
        (controller, _), (node, _) = self.ports = reserve_port(), reserve_port()
        lines = "\n".join(f"NodeName={name} NodeAddr={address(name)} CPUs={cpus}" for name in nodes)
        (self.folder / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={head}({address(head)})
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
# ranks meet at a port that follows from the job's number: another cluster on this machine has other ones
FirstJobId={controller}
AuthType=auth/munge
# a requeued job waits until its credential has expired
AuthInfo=socket={self.folder}/munge.socket,cred_expire=5
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool.%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.%n.log
SlurmctldDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# the node has these processors, whatever the machine has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
# a cancelled job may save its state first
KillWait=120
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{lines}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        (self.folder / "state").mkdir()
        self.daemon("slurmctld", "-D", "-c", host=head)
        for name in nodes:
            (self.folder / f"spool.{name}").mkdir()
            self.daemon("slurmd", "-D", "-N", name, host=name)
        wait_until(lambda: self.try_call("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(nodes), "idle nodes", pause=0.1)

    def on(self, host, words, folder="/"):
        """The command as it runs on one of several hosts; here when there is one."""
        return self.network.words(host, *words, folder=folder) if self.network else [str(word) for word in words]

    def daemon(self, name, *words, host=None):
        output = open(self.folder / f"{name}.out", "ab")
        command = self.on(host, [find(name), *words]) if host else [find(name), *words]
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                                             stderr=output, preexec_fn=die_with_parent, start_new_session=True))
        output.close()

    def run(self, words, cwd="/"):
        return subprocess.run(self.on("head", words, cwd), env=self.environment, capture_output=True, text=True, timeout=HANG, cwd=cwd)

    def try_call(self, *words):
        return self.run(words).stdout

    def call(self, *words, **options):
        done = self.run(words, **options)
        if done.returncode != 0:
            raise AssertionError(f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}\n{self.logs()}")
        return done.stdout

    def job(self, number):
        """The fields that scontrol shows of a job."""
        return dict(word.split("=", 1) for word in self.call("scontrol", "show", "job", number).split() if "=" in word)

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
                         for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]))

    def close(self):
        """Ends all jobs and daemons, then whatever is left."""
        if (self.folder / "slurm.conf").exists():
            with contextlib.suppress(Exception):
                self.try_call("scancel", "--full", "--signal=KILL", "--state=RUNNING")
                self.try_call("scancel", "--me")
                wait_until(lambda: not self.try_call("squeue", "-h"), "the end of all jobs", 20, pause=0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self.daemons:
            daemon.wait()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for _, reserved in self.ports:
            reserved.close()
        if self.network:
            self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)
