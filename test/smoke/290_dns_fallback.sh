# hosts: 2
# resolver: --address=/www.example/192.0.2.80
# Other names are asked of the host's resolvers, by UDP and TCP.
attached h1 ask
answered ask www.example 192.0.2.80
[ "$(inside ask dig @10.32.0.1 +short +tcp +time=3 +tries=1 www.example)" = 192.0.2.80 ]
