# hosts: 2
# Packet filter rules that somebody flushes come back, and the exposed host can be reached again.
h1 weft expose
attached h2 box
eventually h1 ping -c 1 -W 1 "$(ip4 box)"
h1 nft list ruleset | grep -q weft
h1 nft flush ruleset
refiltered() { h1 nft list ruleset | grep -q weft; }
eventually refiltered
eventually h1 ping -c 1 -W 1 "$(ip4 box)"
