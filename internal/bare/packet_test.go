package bare

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// packet makes an IPv4 packet with a UDP datagram, as the network has it.
func packet(from, to uint16, payload []byte) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 1, 17
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], []byte{10, 0, 0, 7})
	copy(p[16:], []byte{225, 4, 5, 6})
	binary.BigEndian.PutUint16(p[20:], from)
	binary.BigEndian.PutUint16(p[22:], to)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	p = append(p, payload...)
	binary.BigEndian.PutUint16(p[26:], ^fold(sum(sum(0, p[12:20])+17+uint32(8+len(payload)), p[20:])))
	return p
}

func TestDecode(t *testing.T) {
	for _, payload := range []string{"", "x", "hello, world", string(bytes.Repeat([]byte{0xff}, MaxDatagram))} {
		p := packet(4000, 5000, []byte(payload))
		check := func(what string, p []byte) {
			t.Helper()
			if d, err := decode4(p); err != nil || d.from != 4000 || d.to != 5000 || string(d.payload) != payload {
				t.Errorf("%s, %d bytes: %d %d %d bytes, %v", what, len(payload), d.from, d.to, len(d.payload), err)
			}
		}
		check("whole", p)
		check("with a trailer", append(p[:len(p):len(p)], 0, 0))
		right := binary.BigEndian.Uint16(p[26:])
		binary.BigEndian.PutUint16(p[26:], 0)
		check("without a checksum", p)
		binary.BigEndian.PutUint16(p[26:], fold(sum(0, p[12:20])+17+uint32(8+len(payload))))
		check("of this machine, with the checksum of the pseudo-header", p)
		binary.BigEndian.PutUint16(p[26:], right^0x0101)
		if _, err := decode4(p); !errors.Is(err, errChecksum) {
			t.Errorf("a wrong checksum: %v", err)
		}
	}
	options := append([]byte{0x46}, packet(1, 2, nil)[1:20]...)
	options = append(append(options, 1, 1, 1, 1), packet(1, 2, nil)[20:]...)
	if d, err := decode4(options); err != nil || d.to != 2 {
		t.Errorf("with IP options: %v", err)
	}
	good := packet(1, 2, []byte("xyz"))
	for name, change := range map[string]func([]byte) []byte{
		"nothing":           func([]byte) []byte { return nil },
		"TCP":               func(p []byte) []byte { p[9] = 6; return p },
		"IPv6":              func(p []byte) []byte { p[0] = 0x65; return p },
		"header too long":   func(p []byte) []byte { p[0] = 0x4f; return p },
		"header too short":  func(p []byte) []byte { p[0] = 0x44; return p },
		"cut":               func(p []byte) []byte { return p[:len(p)-1] },
		"UDP of four bytes": func(p []byte) []byte { p[25] = 4; return p },
	} {
		if _, err := decode4(change(append([]byte{}, good...))); !errors.Is(err, errPacket) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = decode4(good) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(packet(4000, 5000, []byte("hello")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		if d, err := decode4(p); err == nil && len(d.payload) > len(p)-28 {
			t.Errorf("%d bytes of %d", len(d.payload), len(p))
		}
		if d, size, err := decodeUDP(p); err == nil && (len(d.payload) != size-udpHeader || size > len(p)) {
			t.Errorf("%d bytes of %d", size, len(p))
		}
	})
}
