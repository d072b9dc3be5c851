# A multicast chat as people write it, knowing nothing of weft: chat.py GROUP PORT
import ipaddress, socket, struct, sys, threading
group, port = sys.argv[1], int(sys.argv[2])
if ipaddress.ip_address(group).version == 4:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    join = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton(group), b"\0" * 4)  # INADDR_ANY
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
else:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    join = socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("16sI", socket.inet_pton(socket.AF_INET6, group), 0)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", port))
s.setsockopt(*join)
def show():
    while True: print(s.recv(65536).decode(), flush=True)
threading.Thread(target=show, daemon=True).start()
for line in sys.stdin: s.sendto(line.rstrip("\n").encode(), (group, port))
threading.Event().wait()
