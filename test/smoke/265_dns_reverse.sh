# hosts: 2
# Addresses have names, in both families; addresses of the cluster without one are asked of nobody else.
attached h1 ask
attached h2 db
answered ask db "$(ip4 db)"
named() { inside ask dig @10.32.0.1 +short +time=3 +tries=1 -x "$1"; }
[ "$(named "$(ip4 db)")" = db.weft.weave.local. ]
[ "$(named "$(ip6 db)")" = db.weft.weave.local. ]
[ -z "$(named 10.47.255.7)" ]
