"""Ports for servers that a test starts."""
import socket


def reserve_port():
    """(number, socket): nobody else gets the port while the socket is open. It is bound, but does not listen: a server that sets SO_REUSEADDR,
    as all do, can listen there, and until then whoever calls is refused."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("", 0))
    return reserved.getsockname()[1], reserved
