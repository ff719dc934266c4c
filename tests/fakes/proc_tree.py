"""A /proc of files: processes with parents, command lines, cgroups, sockets and network namespaces, as proc(5) lays them out."""

from __future__ import annotations

import ipaddress
import shutil
from dataclasses import dataclass, field
from pathlib import Path

HOST_NETWORK = "net:[4026531840]"
_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
_LINE = "   0: {} {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n"


def _hex(address: str, port: int) -> tuple[str, str]:
    """(file, address) as ``/proc/net/tcp`` or ``tcp6`` writes it on a little-endian machine."""
    ip = ipaddress.ip_address(address)
    raw = ip.packed
    words = "".join(raw[i : i + 4][::-1].hex().upper() for i in range(0, len(raw), 4))
    return ("tcp" if ip.version == 4 else "tcp6"), f"{words}:{port:04X}"


@dataclass
class ProcTree:
    """Writes below ``root``; ``process`` may be called again for a pid to replace it."""

    root: Path
    _inode: int = 1000
    _tables: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _addresses: dict[str, list[str]] = field(default_factory=dict)
    _in: dict[int, str] = field(default_factory=dict)

    def process(
        self,
        pid: int,
        parent: int = 1,
        *,
        words: tuple[str, ...] = ("program",),
        cgroup: str = "0::/init.scope\n",
        network: str = HOST_NETWORK,
        started: int = 5000,
        program: str = "a) b",
    ) -> None:
        directory = self.root / str(pid)
        (directory / "fd").mkdir(parents=True, exist_ok=True)
        (directory / "ns").mkdir(exist_ok=True)
        # The name has a parenthesis and a space, as any program's may.
        after = [str(parent), *["0"] * 17, str(started), "0"]
        (directory / "stat").write_text(f"{pid} ({program}) S {' '.join(after)}\n", encoding="utf-8")
        (directory / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())
        (directory / "cgroup").write_text(cgroup, encoding="utf-8")
        (directory / "ns/net").unlink(missing_ok=True)
        (directory / "ns/net").symlink_to(network)
        self._in[pid] = network
        self._write_network(network)

    def end(self, pid: int) -> None:
        """The process and its sockets are gone."""
        for entry in (self.root / str(pid) / "fd").iterdir():
            inode = entry.name
            for table, lines in self._tables.get(self._in[pid], {}).items():
                self._tables[self._in[pid]][table] = [line for line in lines if f" {inode} 1 " not in line]
        shutil.rmtree(self.root / str(pid))
        self._write_network(self._in.pop(pid))

    def uptime(self, seconds: float) -> None:
        (self.root / "uptime").write_text(f"{seconds:.2f} 0.00\n", encoding="utf-8")

    def network(self, name: str, *addresses: str) -> None:
        """A network namespace with addresses of its own."""
        self._addresses[name] = list(addresses)

    def listen(self, pid: int, address: str, port: int) -> None:
        self._inode += 1
        table, local = _hex(address, port)
        line = _LINE.format(local, "00000000:0000 0A", self._inode)
        self._tables.setdefault(self._in[pid], {}).setdefault(table, []).append(line)
        (self.root / str(pid) / "fd" / str(self._inode)).symlink_to(f"socket:[{self._inode}]")
        self._write_network(self._in[pid])

    def connect(self, pid: int, address: str, port: int) -> None:
        """An established connection of the process from that local address: no listener."""
        self._inode += 1
        table, local = _hex(address, port)
        line = _LINE.format(local, "0100007F:9999 01", self._inode)
        self._tables.setdefault(self._in[pid], {}).setdefault(table, []).append(line)
        (self.root / str(pid) / "fd" / str(self._inode)).symlink_to(f"socket:[{self._inode}]")
        self._write_network(self._in[pid])

    def _write_network(self, network: str) -> None:
        routes = "".join(
            f"           |-- {address}\n              /32 host LOCAL\n"
            for address in self._addresses.get(network, ())
            if ":" not in address
        )
        inet6 = "".join(
            f"{ipaddress.ip_address(address).packed.hex()} 04 40 00 82     eth0\n"
            for address in self._addresses.get(network, ())
            if ":" in address
        )
        for pid in (pid for pid, name in self._in.items() if name == network):
            base = self.root / str(pid) / "net"
            base.mkdir(exist_ok=True)
            for table in ("tcp", "tcp6"):
                base.joinpath(table).write_text(_HEADER + "".join(self._tables.get(network, {}).get(table, ())), encoding="utf-8")
            base.joinpath("fib_trie").write_text(f"Main:\n{routes}", encoding="utf-8")
            base.joinpath("if_inet6").write_text(inet6, encoding="utf-8")
