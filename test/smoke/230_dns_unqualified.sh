# hosts: 2
# A short name is looked for in the program's own network, not in another.
h1 weft network create lab
eventually h2 weft network create lab
attached h1 here
attached h1 inlab --network lab
attached h2 db --network lab
answered inlab db "$(ip4 db)"
answered inlab db.lab.weave.local "$(ip4 db)"
answered here db
answered here db.lab.weave.local
