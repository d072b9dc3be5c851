# hosts: 2
# More addresses than 512 bytes hold are told, by EDNS0 or TCP; a short packet says that there are more.
attached h1 ask
h1 weft name add many $(seq -f 192.0.2.%g 101 116)
h2 weft name add many $(seq -f 192.0.2.%g 117 132)
answered ask many $(seq -f 192.0.2.%g 101 132)
dig() { inside ask dig @10.32.0.1 +time=3 +tries=1 many "$@"; }
dig +bufsize=512 +ignore | grep -q 'flags: qr aa tc'
[ "$(dig +noedns +short | wc -l)" = 32 ]
[ "$(dig +bufsize=1232 +ignore +short | wc -l)" = 32 ]
