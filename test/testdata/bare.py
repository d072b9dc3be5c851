"""Plain UDP datagrams to a group and from it: bare.py pub GROUP PORT TEXT... | bare.py sub GROUP PORT"""
import socket, struct, sys

group, port = sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[1] == "pub":
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    for text in sys.argv[4:]:
        s.sendto(text.encode(), (group, port))
else:
    s.bind(("", port))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4sl", socket.inet_aton(group), socket.INADDR_ANY))
    print("ready", flush=True)
    while True:
        print("got", s.recv(65536).decode(), flush=True)
