# A TCP stream that goes on for some seconds: flow.py serve PORT | flow.py send ADDRESS PORT SECONDS
# The server prints "gap SECONDS" for each time in which nothing came for 0.3 s, and "end BYTES" when the stream ends.
import socket, sys, time
if sys.argv[1] == "serve":
    s = socket.create_server(("", int(sys.argv[2])))
    print("ready", flush=True)
    c, _ = s.accept()
    total, last = 0, None
    while True:
        b = c.recv(65536)
        now = time.monotonic()
        if last and now - last > 0.3: print("gap %.2f" % (now - last), flush=True)
        if not b: break
        if not last: print("begun", flush=True)
        total, last = total + len(b), now
    print("end", total, flush=True)
else:
    c = socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=20)
    end = time.monotonic() + float(sys.argv[4])
    while time.monotonic() < end:
        c.sendall(b"." * 20000)
        time.sleep(0.05)
    c.shutdown(socket.SHUT_WR)
    c.recv(1)
