# Plain UDP datagrams to a group and from it: bare.rb pub GROUP PORT TEXT... | bare.rb sub GROUP PORT
require 'socket'
require 'ipaddr'
$stdout.sync = true
what, group, port, *texts = ARGV
s = UDPSocket.new
if what == 'pub'
  s.setsockopt(Socket::IPPROTO_IP, Socket::IP_MULTICAST_TTL, [1].pack('i'))
  texts.each { |text| s.send(text, 0, group, port.to_i) }
else
  s.setsockopt(Socket::IPPROTO_IP, Socket::IP_ADD_MEMBERSHIP, IPAddr.new(group).hton + IPAddr.new('0.0.0.0').hton)
  s.bind(Socket::INADDR_ANY, port.to_i)
  puts 'ready'
  loop { puts "got #{s.recvfrom(1024).first}" }
end
