"""Serves and sends the requests of the package's test: `serve` in the workload, `ask` as a client.

ask ADDRESS REPORT runs until it gets SIGTERM, then writes its counts as one JSON object. REPORT.now holds the number of
answers so far. A datagram is lost when no answer came within five seconds after the last one was sent; a connection
when it could not be made, ended early or gave no answer within ten seconds. Nothing is sent twice by this program.
"""

import json
import signal
import socket
import sys
import threading
import time

TCP, UDP = 80, 53
SERVED_TCP, SERVED_UDP = 8080, 5353


def serve():
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", SERVED_UDP))

    def echo_datagrams():
        while True:
            data, client = datagrams.recvfrom(2048)
            datagrams.sendto(data, client)

    def echo(connection):
        with connection:
            while data := connection.recv(2048):
                connection.sendall(data)

    threading.Thread(target=echo_datagrams, daemon=True).start()
    listener = socket.create_server(("0.0.0.0", SERVED_TCP), backlog=128)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


class Counts:
    def __init__(self):
        self.lock = threading.Lock()
        self.values = {name: 0 for name in ("connections", "echoes", "datagrams", "answers")}
        self.errors = []

    def add(self, name):
        with self.lock:
            self.values[name] += 1

    def failed(self, what, error):
        with self.lock:
            self.errors.append(f"{what}: {error!r}")


def answer(connection, text):
    connection.sendall(text)
    got = b""
    while len(got) < len(text):
        data = connection.recv(2048)
        if not data:
            raise ConnectionError("closed by the other side")
        got += data
    if got != text:
        raise ValueError(f"{got!r} instead of {text!r}")


def ask(address, report):
    counts, stopped = Counts(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())

    def connect():
        while not stopped.is_set():
            try:
                with socket.create_connection((address, TCP), timeout=10) as connection:
                    answer(connection, b"a connection of its own")
                counts.add("connections")
            except OSError as error:
                counts.failed("connection", error)
            stopped.wait(0.05)

    def stream():
        try:
            with socket.create_connection((address, TCP), timeout=10) as connection:
                while not stopped.is_set():
                    answer(connection, b"one of many on a connection")
                    counts.add("echoes")
                    stopped.wait(0.05)
        except OSError as error:
            counts.failed("stream", error)

    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((address, UDP))
    datagrams.settimeout(5)
    seen, sent_all = set(), threading.Event()

    def receive():
        while not (sent_all.is_set() and len(seen) == counts.values["datagrams"]):
            try:
                seen.add(datagrams.recv(2048))
            except TimeoutError:
                if sent_all.is_set():
                    return
            except OSError as error:
                counts.failed("datagram", error)

    def send():
        while not stopped.is_set():
            try:
                datagrams.send(b"%d" % counts.values["datagrams"])
                counts.add("datagrams")
            except OSError as error:
                counts.failed("datagram", error)
            stopped.wait(0.02)

    threads = [threading.Thread(target=target) for target in (connect, stream, send)]
    receiver = threading.Thread(target=receive)
    receiver.start()
    for thread in threads:
        thread.start()
    while not stopped.wait(0.1):
        with open(f"{report}.now", "w", encoding="ascii") as file:
            file.write(str(counts.values["connections"]))
    for thread in threads:
        thread.join()
    sent_all.set()
    receiver.join()
    counts.values["answers"] = len(seen)
    with open(report, "w", encoding="ascii") as file:
        json.dump(counts.values | {"errors": counts.errors[:20], "failures": len(counts.errors)}, file)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        ask(*sys.argv[2:])
