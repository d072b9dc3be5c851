# Frames that no attachment may send: forge.py KIND ADDRESS  (of this attachment), on weft0
import socket, struct, sys
kind, own = sys.argv[1:3]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("weft0", 0))
mac = s.getsockname()[4]
def sum16(b):
    b += b"\0" * (len(b) % 2)
    n = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def ip4(src, dst, proto, body, ttl=1, options=b""):
    h = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 1, 0, ttl, proto, 0, socket.inet_aton(src), socket.inet_aton(dst)) + options
    return h[:10] + struct.pack("!H", sum16(h)) + h[12:] + body
def ip6(src, dst, proto, body, options=b""):
    src, dst = socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)
    c = sum16(src + dst + struct.pack("!II", len(body), proto) + body)
    body = body[:2] + struct.pack("!H", c) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(options) + len(body), 0 if options else proto, 255) + src + dst + options + body
def udp(sport, dport, text): return struct.pack("!HHHH", sport, dport, 8 + len(text), 0) + text
group4 = lambda g: bytes([1, 0, 0x5e]) + bytes([socket.inet_aton(g)[1] & 127]) + socket.inet_aton(g)[2:]
mark = b"forged-" + kind.encode()
all1, all6 = group4("224.0.0.1"), bytes.fromhex("333300000001")
ll = "fe80::" + "%x:%x:%x:%x" % struct.unpack("!HHHH", bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])
frame = {
    "honest": lambda: all1 + mac + b"\x08\x00" + ip4(own, "224.0.0.1", 17, udp(4000, 4000, mark)),
    "mac": lambda: all1 + bytes.fromhex("02aabbccddee") + b"\x08\x00" + ip4(own, "224.0.0.1", 17, udp(4000, 4000, mark)),
    "ip": lambda: all1 + mac + b"\x08\x00" + ip4("10.99.99.99", "224.0.0.1", 17, udp(4000, 4000, mark)),
    "arp": lambda: b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + mac + socket.inet_aton("10.99.99.99") + b"\xff" * 6 + socket.inet_aton("10.99.99.99") + mark,
    "ra": lambda: all6 + mac + b"\x86\xdd" + ip6(ll, "ff02::1", 58, struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\xc8\x02" + mark.ljust(14, b"\0")),
    "dhcp": lambda: b"\xff" * 6 + mac + b"\x08\x00" + ip4(own, "255.255.255.255", 17, udp(67, 68, b"\x02\x01\x06\0" + b"\0" * 232 + b"\x63\x82\x53\x63" + mark)),
    "query": lambda: all1 + mac + b"\x08\x00" + ip4(own, "224.0.0.1", 2, (lambda b: b[:2] + struct.pack("!H", sum16(b)) + b[4:])(b"\x11\x0a\0\0\0\0\0\0\x02\x7d\0\0" + mark), options=b"\x94\x04\0\0"),
    "stp": lambda: bytes.fromhex("0180c2000000") + mac + struct.pack("!H", 3 + 4 + len(mark)) + b"\x42\x42\x03\0\0\0\0" + mark,
}[kind]()
for _ in range(20): s.send(frame)
print("sent", flush=True)
