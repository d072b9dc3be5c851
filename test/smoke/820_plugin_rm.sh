# hosts: 1
# docker: alone
# A network is not removed from under its containers, not made twice, and leaves nothing.
network h1 party
container h1 c1 party
refused "active endpoints" h1 docker network rm party
refused "already exists" network h1 party
h1 docker rm -f c1 >/dev/null
h1 docker network rm party >/dev/null
nothing() { [ "$(h1 ip -o link show type bridge | grep -c ': wb')" = 1 ] && ! h1 ip -o link show | grep -q ': wi'; } # the default network's
eventually nothing
refused "network party not found" h1 docker network inspect party
