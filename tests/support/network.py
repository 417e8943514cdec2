"""Hosts on one machine, each with its own name, network and /etc/hosts, joined by a switch: namespaces of Linux, for tests of several nodes.
Needs root, and unshare, nsenter and ip. What it starts ends with the calling process."""
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess

from processes import wait_until

PR_SET_PDEATHSIG = 1
PROGRAMS = ("unshare", "nsenter", "ip", "mount", "hostname")
libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """In a child: ends it when this process ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def why_not():
    """The reason why there can be no such hosts here, or None."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "namespaces need root"
    steps = ("ip link add bridge0 type bridge && ip link add one type veth peer name two netns $$ && hostname one && "
             "nsenter --target $$ --net --uts --mount --wdns=/ true")
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "sh", "-c", steps], capture_output=True, text=True)
    return None if done.returncode == 0 else f"no network namespaces: {done.stderr.strip()}"


class Network:
    """names[0] is the switch itself, a host, too."""

    def __init__(self, names, folder):
        self.names, self.holders = list(names), {}
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(name)} {name}\n" for name in self.names))
        for name in self.names:
            self.holders[name] = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sleep", "infinity"], preexec_fn=die_with_parent)
        switch, *others = self.names
        for name in self.names:
            self.wait_for_namespace(name)
            self.call(name, "hostname", name)
            self.call(name, "ip", "link", "set", "lo", "up")
            self.call(name, "mount", "--bind", hosts, "/etc/hosts")
        self.call(switch, "ip", "link", "add", "bridge0", "type", "bridge")
        self.call(switch, "ip", "addr", "add", f"{self.address(switch)}/24", "dev", "bridge0")
        self.call(switch, "ip", "link", "set", "bridge0", "up")
        for name in others:
            self.call(switch, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(self.holders[name].pid))
            self.call(switch, "ip", "link", "set", name, "master", "bridge0", "up")
            self.call(name, "ip", "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            self.call(name, "ip", "link", "set", "eth0", "up")

    def address(self, name):
        return f"10.77.0.{1 + self.names.index(name)}"

    def wait_for_namespace(self, name):
        """Until unshare has made the mounts private, too, and become `sleep`."""
        command = pathlib.Path(f"/proc/{self.holders[name].pid}/comm")
        wait_until(lambda: command.read_text().strip() == "sleep", f"the namespaces of {name}")

    def words(self, name, *command, folder="/"):
        """The command as it runs on a host, in a folder."""
        return ["nsenter", "--target", str(self.holders[name].pid), "--net", "--uts", "--mount", f"--wdns={folder}", *map(str, command)]

    def call(self, name, *command):
        subprocess.run(self.words(name, *command), check=True, capture_output=True)

    def unplug(self, name):
        """Nothing reaches the host any more, and nobody is told."""
        self.call(self.names[0], "ip", "link", "set", name, "down")

    def plug_in(self, name):
        self.call(self.names[0], "ip", "link", "set", name, "up")

    def close(self):
        for holder in self.holders.values():
            holder.kill()
            holder.wait()
