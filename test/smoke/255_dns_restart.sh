# hosts: 2
# Names are there again after weft was restarted, by an upgrade's way; those of programs that ended meanwhile are not.
attached h1 ask
attached h2 stays
attached h2 goes
answered ask goes "$(ip4 goes)"
h2 weft name add printer 192.0.2.7
answered ask printer 192.0.2.7
h2 weft up --detach --replace --name h2 --log-level warn
ended goes
answered ask goes
answered ask stays "$(ip4 stays)"
answered ask printer 192.0.2.7
h2 weft down
answered ask stays
answered ask printer
