# A TCP stream between attachments, paced and hashed: stream.py listen PORT | stream.py send ADDR PORT SECONDS
# The receiver prints "got BYTES SHA256 LONGEST-SILENCE-IN-MS" at the end, the sender "sent BYTES SHA256".
import hashlib, socket, sys, time
digest, total = hashlib.sha256(), 0
if sys.argv[1] == "listen":
    s = socket.create_server(("", int(sys.argv[2])))
    print("ready", flush=True)
    c, _ = s.accept()
    last, longest = time.monotonic(), 0
    while b := c.recv(1 << 16):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        digest.update(b)
        total += len(b)
    print("got", total, digest.hexdigest(), int(longest * 1000), flush=True)
else:
    c = socket.create_connection((sys.argv[2], int(sys.argv[3])), 10)
    print("ready", flush=True)
    c.settimeout(30)
    began, seconds, i = time.monotonic(), float(sys.argv[4]), 0
    while time.monotonic() - began < seconds:
        block = hashlib.sha256(b"%d" % i).digest() * 512 # 16 KiB
        c.sendall(block)
        digest.update(block)
        total += len(block)
        i += 1
        wait = began + i * 0.005 - time.monotonic() # 26 Mbit/s
        if wait > 0: time.sleep(wait)
    c.close()
    print("sent", total, digest.hexdigest(), flush=True)
