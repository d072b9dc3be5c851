# A program inside an attachment that does what a test types: agent.py PORT
#   join GROUP [SOURCE]   leave GROUP [SOURCE]   many PREFIX COUNT   send ADDR TEXT [SIZE]   flow ADDR COUNT SECONDS SIZE TEXT
# It prints "ok COMMAND" when done, and "got TEXT LENGTH SOURCE" for each datagram; what is sent is padded to SIZE with dots.
import ipaddress, resource, select, socket, struct, sys, threading, time
port = int(sys.argv[1])
s4, s6 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
for s in (s4, s6):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind(("", port))
s4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s4.setsockopt(socket.IPPROTO_IP, 49, 0)   # IP_MULTICAST_ALL off: only what was joined
s6.setsockopt(socket.IPPROTO_IPV6, 29, 0) # IPV6_MULTICAST_ALL off
s4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
s6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
out = threading.Lock()
def show(*a):
    with out: print(*a, flush=True)
def member(on, group, source=None):
    if ":" in group:
        if source: # struct group_source_req: index, pad, two sockaddr_storage
            ss = lambda a: struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, a), 0)
            s6.setsockopt(socket.IPPROTO_IPV6, 46 if on else 47, struct.pack("=I4x", socket.if_nametoindex("weft0")) + ss(group) + ss(source))
        else: s6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP if on else socket.IPV6_LEAVE_GROUP, struct.pack("16sI", socket.inet_pton(socket.AF_INET6, group), 0))
    elif source: s4.setsockopt(socket.IPPROTO_IP, 39 if on else 40, socket.inet_aton(group) + b"\0" * 4 + socket.inet_aton(source))
    else: s4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP if on else socket.IP_DROP_MEMBERSHIP, socket.inet_aton(group) + b"\0" * 4)
kept = []
def many(prefix, count): # 20 memberships a socket is the kernel's default
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    joined = 0
    for i in range(count):
        if i % 20 == 0: kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try: kept[-1].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("%s.%d.%d" % (prefix, i // 250, i % 250 + 1)) + b"\0" * 4); joined += 1
        except OSError: pass
    show("joined", joined)
def send(addr, text, size=0):
    (s6 if ":" in addr else s4).sendto(text.encode().ljust(size, b"."), (addr, port))
def flow(addr, count, seconds, size, text):
    start = time.monotonic()
    for i in range(count):
        wait = start + seconds * i / count - time.monotonic()
        if wait > 0: time.sleep(wait)
        try: send(addr, "%s-%d" % (text, i), size)
        except OSError as e: show("error", e)
    show("flowed", text)
def hear():
    while True:
        for s in select.select([s4, s6], [], [])[0]:
            b, a = s.recvfrom(70000)
            show("got", b.decode(errors="replace").rstrip("."), len(b), a[0].split("%")[0])
threading.Thread(target=hear, daemon=True).start()
show("ready")
for line in sys.stdin:
    w = line.split()
    try:
        if w[0] == "join": member(True, *w[1:])
        elif w[0] == "leave": member(False, *w[1:])
        elif w[0] == "many": many(w[1], int(w[2]))
        elif w[0] == "send": send(w[1], w[2], int(w[3]) if len(w) > 3 else 0)
        elif w[0] == "flow": threading.Thread(target=flow, args=(w[1], int(w[2]), float(w[3]), int(w[4]), w[5]), daemon=True).start()
        show("ok", line.strip())
    except OSError as e: show("error", line.strip(), e)
threading.Event().wait()
