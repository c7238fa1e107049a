"""A real Slurm on one machine: `python tests/slurm/cluster.py start FOLDER`, and `stop FOLDER`.

One node with four fake GPUs, accounting by slurmdbd and MariaDB, everything on loopback and all state in FOLDER. Debian
and root are needed; the packages are installed if they are missing. Several clusters can live side by side.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurmdbd", "mariadb-server", "munge")
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged")
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
GPUS = 4
PATIENCE = 60  # seconds for each daemon to come up


class Trouble(Exception):
    """The cluster cannot be had here, or did not come up; the words say why."""


def why_not() -> str | None:
    """Why this machine cannot have a cluster; None if it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = missing_programs()
    if missing and not shutil.which("apt-get"):
        return f"{', '.join(missing)} not found, and no apt-get to install {' '.join(PACKAGES)}"
    return None


def missing_programs() -> list[str]:
    """What `start` would have to install."""
    return [name for name in PROGRAMS if not _program(name)]


def start(folder: Path) -> dict[str, str]:
    """Start a cluster whose state is in `folder`; gives the environment in which Slurm's commands find it.

    Raises:
        Trouble: with what the daemon that did not come up has in its log.
    """
    if reason := why_not():
        raise Trouble(reason)
    if missing_programs():
        _install()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    control, node, accounting = _free_ports(3)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "MYSQL_UNIX_PORT": str(folder / "mysql.sock")}
    environment["STITCHING_DEVICE"] = "cpu"  # its GPUs are no real ones, and a job that is given one wants to use it
    _write_configs(folder, host, control, node, accounting)
    os.environ.update(environment)

    _start_munge(folder)
    _start_database(folder)
    _daemon(folder, "slurmdbd", ["slurmdbd", "-D"])
    _wait("slurmdbd", folder, lambda: _ok(["sacctmgr", "-n", "list", "cluster"]))
    if "onemachine" not in _said(["sacctmgr", "-n", "list", "cluster", "format=cluster"]):
        _call(["sacctmgr", "-i", "add", "cluster", "onemachine"])
        _call(["sacctmgr", "-i", "add", "account", "research", "cluster=onemachine"])
        _call(["sacctmgr", "-i", "add", "user", pwd.getpwuid(os.geteuid()).pw_name, "account=research"])
    start_controller(folder)
    start_node(folder)
    _wait("slurmd", folder, lambda: "idle" in _said(["sinfo", "-h", "-o", "%t"]) or not _resume(host))
    _wait("a first job", folder, lambda: _ok(["srun", "--time=1", "--mem=10", "true"]))
    exports = environment | {"OMP_NUM_THREADS": "1"}  # the node says it has more cores than this machine
    (folder / "environment").write_text("".join(f"export {key}={value}\n" for key, value in exports.items()))
    return environment


def start_controller(folder: Path) -> None:
    """Start slurmctld, which may have been stopped before."""
    _daemon(folder, "slurmctld", ["slurmctld", "-D", "-f", str(folder / "slurm.conf")])
    _wait("slurmctld", folder, lambda: "UP" in _said(["scontrol", "ping"]))


def start_node(folder: Path) -> None:
    """Start slurmd, which may have been stopped before."""
    host = socket.gethostname().partition(".")[0]
    _daemon(folder, "slurmd", ["slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", host])


def stop_daemon(folder: Path, name: str, number: int = signal.SIGTERM) -> None:
    """Stop one of the cluster's daemons by its pid, and wait until it is gone."""
    path = folder / f"{name}.started"
    if not path.exists():
        return
    pid = int(path.read_text())
    try:
        os.kill(pid, number)
        deadline = time.monotonic() + 20
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    path.unlink(missing_ok=True)


def stop(folder: Path) -> None:
    """Stop what `start` started in `folder`: its jobs, then its daemons."""
    folder = folder.resolve()
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    if (folder / "slurmctld.started").exists():
        _ok(["scancel", "--me"])
        _ok(["scancel", "--me", "--signal=KILL", "--full"])
        deadline = time.monotonic() + 10
        while _said(["squeue", "-h"]).strip() and time.monotonic() < deadline:
            time.sleep(0.2)
    for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
        stop_daemon(folder, name)


# ------------------------------------------------------------------------------------------------------- the pieces


def _install() -> None:
    print(f"Installing {' '.join(PACKAGES)}", file=sys.stderr)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", *PACKAGES]):
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise Trouble(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def _write_configs(folder: Path, host: str, control: int, node: int, accounting: int) -> None:
    for i in range(GPUS):
        if not (folder / f"gpu{i}").exists():  # Slurm wants a device; /dev/null's numbers are as good as any
            os.mknod(folder / f"gpu{i}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"
    )
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "slurm.conf").write_text(
        f"""\
ClusterName=onemachine
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
GresTypes=gpu
DefMemPerCPU=500
JobRequeue=1
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=2,batch_sched_delay=0
KillWait=5
AuthInfo=cred_expire=5
OverTimeLimit=0
MinJobAge=300
MaxJobCount=20000
SlurmdTimeout=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 Boards=1 SocketsPerBoard=1 CoresPerSocket=32 \
ThreadsPerCore=1 RealMemory=262144 Gres=gpu:{GPUS} State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=preempt Nodes={host} MaxTime=INFINITE State=UP
PartitionName=debug Nodes={host} MaxTime=30 State=UP
PartitionName=cpu Nodes={host} MaxTime=INFINITE State=UP
"""
    )
    # slurmd checks the machine against the file; more than it has is meant, so that profiles for real nodes fit.
    text = (folder / "slurm.conf").read_text()
    (folder / "slurm.conf").write_text(text + "SlurmdParameters=config_overrides\n")
    (folder / "slurmdbd.conf").write_text(
        f"""\
AuthType=auth/munge
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
"""
    )
    (folder / "slurmdbd.conf").chmod(0o600)


def _start_munge(folder: Path) -> None:
    """munged serves the whole machine; one that runs already is left alone, also at the end."""
    if _ok(["munge", "-n"]):
        return
    munge = pwd.getpwnam("munge")
    for place in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge"):
        Path(place).mkdir(parents=True, exist_ok=True)
        os.chown(place, munge.pw_uid, munge.pw_gid)
    Path("/run/munge").chmod(0o755)
    if not Path("/etc/munge/munge.key").exists():
        _call(["runuser", "-u", "munge", "--", _found("mungekey")])
    _daemon(folder, "munged", ["runuser", "-u", "munge", "--", _found("munged"), "--force", "--foreground"])
    _wait("munged", folder, lambda: _ok(["munge", "-n"]))


def _start_database(folder: Path) -> None:
    data, mysql = folder / "mysql", folder / "mysql.sock"
    if not (data / "mysql").exists():
        data.mkdir(exist_ok=True)
        _call([_found("mariadb-install-db"), "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"])
    command = [_found("mariadbd"), "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={mysql}"]
    _daemon(
        folder, "mariadbd", [*command, "--skip-networking", f"--pid-file={data}/pid", "--innodb-flush-method=fsync"]
    )
    client = ["mariadb", "--no-defaults", f"--socket={mysql}", "-e"]
    _wait("mariadbd", folder, lambda: _ok([*client, "select 1"]))
    _call(
        [
            *client,
            "create user if not exists slurm@localhost identified by 'slurm'; grant all on *.* to slurm@localhost;",
        ]
    )


def _daemon(folder: Path, name: str, command: Sequence[str]) -> None:
    with open(folder / f"{name}.out", "ab") as out:
        process = subprocess.Popen(
            [_found(command[0]), *command[1:]], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    (folder / f"{name}.started").write_text(str(process.pid))
    _CHILDREN.append(process)


_CHILDREN: list[subprocess.Popen[bytes]] = []  # so that those that ended are waited for


def _alive(pid: int) -> bool:
    for child in _CHILDREN:
        child.poll()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _resume(host: str) -> bool:
    """A node that came up drained is put to work; always False, for use in a condition."""
    if any(word in _said(["sinfo", "-h", "-o", "%t"]) for word in ("drain", "down")):
        _ok(["scontrol", "update", f"nodename={host}", "state=resume"])
    return True


def _wait(name: str, folder: Path, up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not up():
        if time.monotonic() > deadline:
            logs = [folder / f"{name}.log", folder / f"{name}.out"]
            words = "\n".join(path.read_text(errors="replace")[-1500:] for path in logs if path.exists())
            raise Trouble(f"{name} did not come up within {PATIENCE} s:\n{words}")
        time.sleep(0.2)


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise Trouble(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def _ok(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return False


def _said(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin")


def _found(name: str) -> str:
    return _program(name) or name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if arguments[0] == "stop":
            stop(Path(arguments[1]))
        else:
            start(Path(arguments[1]))
            print(f"source {Path(arguments[1]).resolve() / 'environment'}")
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
