"""A NATS client in plain Python, to see that the listener speaks to more than one library.

    nats.py PORT echo SUBJECT       answer each request with its payload in capitals and a header, print "ready" first
    nats.py PORT queue SUBJECT Q    print what comes as a member of queue group Q, "ready" first
    nats.py PORT pub SUBJECT N      publish the numbers from 1 to N
"""
import json
import socket
import sys


class Client:
    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.sock.makefile("rb")
        verb, _, info = self.file.readline().partition(b" ")
        assert verb == b"INFO", verb
        assert json.loads(info)["headers"] is True
        self.send('CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"python","name":"nats.py"}\r\n')
        self.flush()

    def send(self, text):
        self.sock.sendall(text.encode() if isinstance(text, str) else text)

    def flush(self):
        self.send("PING\r\n")
        line = self.file.readline()
        assert line == b"PONG\r\n", line

    def messages(self):
        while True:
            line = self.file.readline()
            words = line.decode().split()
            if not words:
                return
            if words[0] == "PING":
                self.send("PONG\r\n")
            elif words[0] in ("MSG", "HMSG"):
                sizes = 1 if words[0] == "MSG" else 2
                reply = words[3] if len(words) == 4 + sizes else None
                header = int(words[-2]) if sizes == 2 else 0
                body = self.file.read(int(words[-1]))
                assert self.file.read(2) == b"\r\n"
                yield words[1], reply, body[:header], body[header:]
            elif words[0] == "-ERR":
                print("error", line.decode().strip(), flush=True)


def main():
    port, what, subject = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    client = Client(port)
    if what == "pub":
        for i in range(int(sys.argv[4])):
            body = str(i + 1).encode()
            client.send(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        client.flush()
        return
    queue = sys.argv[4] + " " if what == "queue" else ""
    client.send("SUB %s %s1\r\n" % (subject, queue))
    client.flush()
    print("ready", flush=True)
    for _, reply, _, body in client.messages():
        if what == "queue":
            print("got", body.decode(), flush=True)
        elif reply:
            header = b"NATS/1.0\r\nBy: python\r\n\r\n"
            answer = header + body.upper()
            client.send(b"HPUB %s %d %d\r\n%s\r\n" % (reply.encode(), len(header), len(answer), answer))


main()
