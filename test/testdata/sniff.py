# Prints "saw MARK" for every frame on weft0 that carries a mark of forge.py.
import re, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("weft0", 3))
s.setsockopt(263, 1, __import__("struct").pack("=iHH8s", socket.if_nametoindex("weft0"), 1, 0, b""))  # promiscuous
print("ready", flush=True)
while True:
    frame, where = s.recvfrom(65536)
    if where[2] == 4: continue  # our own
    for m in re.findall(rb"forged-([a-z]+)", frame): print("saw", m.decode(), flush=True)
