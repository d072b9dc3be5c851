# hosts: 2
# Names are added by hand on any host, and taken back where they were added.
attached h1 ask
h1 weft name add printer 192.0.2.7
h2 weft name add printer 192.0.2.8
answered ask printer 192.0.2.7 192.0.2.8
[ "$(h1 weft name lookup printer | sort | paste -sd ' ' -)" = "192.0.2.7 192.0.2.8" ]
h2 weft name rm printer
answered ask printer 192.0.2.7
refused "h1" h2 weft name rm printer
