"""The first process of the lab kernel: makes the place ready, runs one command, ends it.

Started by the kernel as `python -I -S inside.py FOLDER`. FOLDER is `kernel`'s
folder for this run; `spec.json` in it says what to do (the keys are
`kernel.Spec`'s), `status` receives the command's exit status. The root is the
machine's own file system, read-only; only the spec's folders can be written.
Only the standard library, and little of it: an import costs more in here.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios

TYPE_CHECKING = False  # what importing typing for it would cost is not worth it
if TYPE_CHECKING:
    from typing import Any

MS_RDONLY, MS_BIND = 1, 4096
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC
RNDADDENTROPY = 0x40085203
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
# What the console carries before and after the command's own output.
BEGIN, END = b"\x1e<lab>\x1e", b"\x1e</lab>\x1e"
FRESH = ("/run", "/tmp", "/var/tmp", "/var/lib", "/var/log")

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError with the target's name."""
    arguments = [part.encode() for part in (source, target, kind)]
    if libc.mount(*arguments, flags, data.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind}: {os.strerror(error)}", target)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def make_ready(spec: dict[str, Any]) -> None:
    mount("proc", "/proc", "proc")
    mount("sys", "/sys", "sysfs")
    # Kernels that mount it themselves answer EBUSY.
    if not os.path.ismount("/dev"):
        mount("dev", "/dev", "devtmpfs")
    # Folders that are needed and would vanish under a fresh /tmp are held
    # aside first, and put back where they were.
    held = {}
    for number, path in enumerate(spec["keep"]):
        if path.startswith(tuple(f"{fresh}/" for fresh in FRESH)):
            held[path] = f"/dev/.keep/{number}"
            os.makedirs(held[path])
            mount(path, held[path], "none", MS_BIND)
    for fresh in FRESH:
        if os.path.isdir(fresh):
            mount("tmpfs", fresh, "tmpfs", 0, "mode=1777" if "tmp" in fresh else "mode=755")
    for path, aside in held.items():
        os.makedirs(path, exist_ok=True)
        mount(aside, path, "none", MS_BIND)
    for path in spec["writable"]:
        os.makedirs(path, exist_ok=True)
        mount("none", path, "hostfs", 0, path)
    for folder, kind in (("/dev/shm", "tmpfs"), ("/dev/pts", "devpts")):
        os.makedirs(folder, exist_ok=True)
        mount(kind, folder, kind)
    for folder in ("/run/netns", "/run/lock", "/run/home"):
        os.makedirs(folder, exist_ok=True)
    write("/proc/sys/kernel/printk", "1")
    write("/proc/sys/kernel/hostname", "lab")
    write("/proc/sys/kernel/modprobe", spec["modprobe"])
    seed = bytes.fromhex(spec["seed"])
    with open("/dev/random", "wb") as pool:
        packed = struct.pack("ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(pool, RNDADDENTROPY, packed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sH14x", b"lo", 0))
        fcntl.ioctl(control, SIOCGIFFLAGS, request)
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def prepare_console(size: list[int], interactive: bool) -> None:
    attributes = termios.tcgetattr(1)
    if not interactive:
        attributes[1] &= ~termios.OPOST  # a newline stays a newline
        attributes[3] &= ~termios.ECHO
    termios.tcsetattr(1, termios.TCSANOW, attributes)
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def run(spec: dict[str, Any]) -> int:
    """Run the command, reap whatever is left to this process, return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if spec["interactive"]:
                terminal = os.open("/dev/tty0", os.O_RDWR)
                for descriptor in (0, 1, 2):
                    os.dup2(terminal, descriptor)
                fcntl.ioctl(0, termios.TIOCSCTTY, 1)
            else:
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.chdir(spec["cwd"])
            os.execvpe(spec["command"][0], spec["command"], spec["env"])
        except OSError as error:
            os.write(2, f"{spec['command'][0]}: {error}\n".encode())
        os._exit(127)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> None:
    folder = sys.argv[1]
    with open(f"{folder}/spec.json") as file:
        spec = json.load(file)
    os.environ.update(spec["env"])
    try:
        make_ready(spec)
        prepare_console(spec["size"], spec["interactive"])
        os.write(1, BEGIN)
        status = run(spec)
        write(f"{folder}/status", str(status))
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(-1, number)
            except ProcessLookupError:
                break
        termios.tcdrain(1)
        os.write(1, END)
        termios.tcdrain(1)
    except Exception as error:
        os.write(1, f"lab kernel: {type(error).__name__}: {error}\n".encode())
        termios.tcdrain(1)
    libc.reboot(LINUX_REBOOT_CMD_POWER_OFF)


if __name__ == "__main__":
    main()
