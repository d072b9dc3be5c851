# hosts: 2
# A name ends with its program, and with its attachment.
attached h1 ask
attached h2 one
attached h2 two
answered ask one "$(ip4 one)"
answered ask two "$(ip4 two)"
ended one
answered ask one
h2 weft detach two
answered ask two
