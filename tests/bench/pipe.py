"""Three processes that copy: file, socket, socket, file. No protocol, no checks: what a relay on this machine cannot beat.

    pipe.py relay PORT | owner PORT FILE | receiver PORT FILE
"""
import os
import socket
import sys

BLOCK = 1 << 20


def relay(port: int):
    server = socket.create_server(("127.0.0.1", port))
    print("listening", flush=True)
    receiver, _ = server.accept()
    owner, _ = server.accept()
    buffer = memoryview(bytearray(BLOCK))
    while count := owner.recv_into(buffer):
        receiver.sendall(buffer[:count])
    receiver.close()


def owner(port: int, path: str):
    line = socket.create_connection(("127.0.0.1", port))
    buffer = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            line.sendall(buffer[:count])


def receiver(port: int, path: str):
    line = socket.create_connection(("127.0.0.1", port))
    buffer = memoryview(bytearray(BLOCK))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    print("connected", flush=True)
    at = 0
    while count := line.recv_into(buffer):
        at += os.pwrite(file, buffer[:count], at)
    os.close(file)


if __name__ == "__main__":
    role, port, *rest = sys.argv[1:]
    {"relay": relay, "owner": owner, "receiver": receiver}[role](int(port), *rest)
