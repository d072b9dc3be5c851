# hosts: 1
# resolver: --local=/sub/
# Names may have dots.
attached h1 ask
h1 weft name add db.sub 192.0.2.9
answered ask db.sub.weave.local 192.0.2.9
answered ask db.sub 192.0.2.9
answered ask sub
