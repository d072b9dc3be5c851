package tap

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/gso"
)

// datagram makes the record of a frame with a UDP datagram from 10.0.0.2:4711 to port 4712, its checksum left to others.
func datagram(mac net.HardwareAddr, to netip.Addr, payload []byte) gso.Record {
	f := append(append([]byte{}, mac...), 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 8, 17, 0, 0, 10, 0, 0, 2)
	f = append(f, to.AsSlice()...)
	binary.BigEndian.PutUint16(f[16:], uint16(28+len(payload)))
	binary.BigEndian.PutUint16(f[24:], ^checksum(f[14:34]))
	pseudo := append([]byte{0, 17}, f[26:34]...)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(8+len(payload)))
	f = binary.BigEndian.AppendUint16(f, 4711)
	f = binary.BigEndian.AppendUint16(f, 4712)
	f = binary.BigEndian.AppendUint16(f, uint16(8+len(payload)))
	f = binary.BigEndian.AppendUint16(f, checksum(pseudo))
	return gso.Record{Frame: append(f, payload...), NeedsChecksum: true, Start: 34, Offset: 6}
}

func checksum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// TestJoinedDatagrams: datagrams joined to one super-frame reach a program one by one, to its address and to a group.
func TestJoinedDatagrams(t *testing.T) {
	ns, d := open(t)
	if !d.SegmentsUDP() {
		t.Fatal("this kernel takes no super-frames of UDP datagrams (Linux 6.2 and later do)")
	}
	var ifi *net.Interface
	var c *net.UDPConn
	if err := ns.Do(func() (err error) {
		if ifi, err = net.InterfaceByName("wu000001"); err != nil {
			return err
		}
		c, err = net.ListenMulticastUDP("udp4", ifi, &net.UDPAddr{IP: net.IPv4(239, 1, 1, 1), Port: 4712})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for _, to := range []struct {
		mac net.HardwareAddr
		ip  string
	}{{ifi.HardwareAddr, "10.0.0.1"}, {net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, "239.1.1.1"}} {
		const n = 20
		var j gso.Joiner
		for i := range n {
			payload := make([]byte, 100)
			if i == n-1 {
				payload = payload[:7]
			}
			payload[0] = byte(i)
			r := datagram(to.mac, netip.MustParseAddr(to.ip), payload)
			if i == 0 && !j.Start(r, true) || i > 0 && !j.Add(r) {
				t.Fatalf("datagram %d not taken", i)
			}
		}
		if taken, err := d.Write(j.Finish()); !taken || err != nil {
			t.Fatalf("wrote %v, %v", taken, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for i := range n {
			k, from, err := c.ReadFromUDP(buf)
			want := 100
			if i == n-1 {
				want = 7
			}
			if err != nil || k != want || buf[0] != byte(i) || from.Port != 4711 {
				t.Fatalf("%s: datagram %d: %d bytes beginning with %d from %v, %v; want %d bytes", to.ip, i, k, buf[0], from, err, want)
			}
		}
	}
}
