package gso

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// datagramRecord makes the record of a frame with one UDP datagram, number i of a flow, as a host that computes no checksums sends it.
func datagramRecord(v6 bool, i, payload int, change func(f []byte)) Record {
	typ, l3 := byte(TypeUDP), 14
	raw := super(typ, false, payload, max(payload, 1))
	f := bytes.Clone(raw[HeaderLen:])
	l4 := l3 + 20
	if v6 {
		l4 = l3 + 40
		h := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protoUDP, 64}, bytes.Repeat([]byte{0xfd, 3}, 16)...)
		binary.BigEndian.PutUint16(h[l3+4:], uint16(8+payload))
		f = append(h, f[34:]...)
		binary.BigEndian.PutUint16(f[l4+6:], fold(sum(f[l3+8:l4])+protoUDP+uint32(8+payload)))
	} else {
		binary.BigEndian.PutUint16(f[l3+4:], uint16(i))
		binary.BigEndian.PutUint16(f[l3+6:], 0) // may be cut on its way: ids count
	}
	for k := range payload {
		f[l4+8+k] = byte(i + k)
	}
	if change != nil {
		change(f)
	}
	return Record{Frame: f, NeedsChecksum: true, Start: byte(l4), Offset: 6}
}

// TestJoinDatagrams: datagrams of a flow become one super-frame, which cut again gives the same datagrams.
func TestJoinDatagrams(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, last := range []int{1, 99, 100} {
			var in []Record
			for i := range 10 {
				n := 100
				if i == 9 {
					n = last
				}
				in = append(in, datagramRecord(v6, i, n, nil))
			}
			var j Joiner
			if !j.Start(in[0], true) {
				t.Fatal("not begun")
			}
			for i, r := range in[1:] {
				if !j.Add(r) {
					t.Fatalf("datagram %d not taken (IPv6 %v)", i+1, v6)
				}
			}
			if last < 100 && j.Add(datagramRecord(v6, 10, last, nil)) {
				t.Error("something after a shorter one")
			}
			out := bytes.Join(j.Finish(), nil)
			h := Parse(out)
			if h.Type != TypeUDP || h.Size != 100 || !h.NeedsChecksum {
				t.Fatalf("header %+v", h)
			}
			parts := split(t, out)
			if len(parts) != len(in) {
				t.Fatalf("%d parts, want %d", len(parts), len(in))
			}
			for i, p := range parts {
				r, _, _ := Next(p)
				want := bytes.Clone(in[i].Frame)
				if !v6 { // the IP checksum, which super leaves as of another id
					binary.BigEndian.PutUint16(want[24:], 0)
					binary.BigEndian.PutUint16(want[24:], ^fold(sum(want[14:34])))
				}
				if !bytes.Equal(r.Frame, want) {
					t.Errorf("datagram %d, IPv6 %v:\n% x\n% x", i, v6, r.Frame[:62], want[:62])
				}
			}
		}
	}
}

// TestJoinOneFlow: what differs in anything but data, lengths, checksums and a meaningless id stays apart.
func TestJoinOneFlow(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		changes := map[string]func(f []byte){
			"destination MAC": func(f []byte) { f[5]++ }, "source MAC": func(f []byte) { f[11]++ },
			"traffic class": func(f []byte) { f[15] ^= 0x10 }, "hop limit": func(f []byte) { f[map[bool]int{false: 22, true: 21}[v6]]-- },
			"source address": func(f []byte) { f[map[bool]int{false: 29, true: 37}[v6]]++ }, "destination address": func(f []byte) { f[map[bool]int{false: 33, true: 53}[v6]]++ },
			"source port": func(f []byte) { f[map[bool]int{false: 35, true: 55}[v6]]++ }, "destination port": func(f []byte) { f[map[bool]int{false: 37, true: 57}[v6]]++ },
			"UDP length": func(f []byte) { f[map[bool]int{false: 39, true: 59}[v6]]-- }, "IP length": func(f []byte) { f[map[bool]int{false: 17, true: 19}[v6]]-- },
		}
		if !v6 {
			changes["id"] = func(f []byte) { f[19]++ }
			changes["flags"] = func(f []byte) { f[20] = dontFragment >> 8 }
			changes["more fragments"] = func(f []byte) { f[20] = 0x20 }
			changes["fragment offset"] = func(f []byte) { f[21] = 1 }
		}
		for name, change := range changes {
			var j Joiner
			j.Start(datagramRecord(v6, 0, 100, nil), true)
			if j.Add(datagramRecord(v6, 1, 100, change)) {
				t.Errorf("joined over another %s (IPv6 %v)", name, v6)
			}
		}
		bare := datagramRecord(v6, 1, 100, nil)
		bare.NeedsChecksum = false
		for name, r := range map[string]Record{"longer": datagramRecord(v6, 1, 101, nil), "empty": datagramRecord(v6, 1, 0, nil), "summed": bare} {
			var j Joiner
			j.Start(datagramRecord(v6, 0, 100, nil), true)
			if j.Add(r) {
				t.Errorf("joined one that is %s (IPv6 %v)", name, v6)
			}
		}
	}
	var j Joiner
	j.Start(datagramRecord(false, 0, 100, nil), false)
	if j.Add(datagramRecord(false, 1, 100, nil)) {
		t.Error("joined for a kernel that takes no super-frames of UDP")
	}
	whole := func(f []byte) { f[20] = dontFragment >> 8 }
	j.Start(datagramRecord(false, 7, 10, whole), true)
	n := 1
	for j.Add(datagramRecord(false, 7, 10, whole)) { // never cut: its id means nothing
		n++
	}
	if n != maxDatagrams {
		t.Errorf("%d datagrams in one super-frame, want %d", n, maxDatagrams)
	}
}

// TestNothingToJoin: what is no whole datagram begins nothing, and goes as it came.
func TestNothingToJoin(t *testing.T) {
	for name, r := range map[string]Record{
		"a fragment": datagramRecord(false, 0, 100, func(f []byte) { f[20] = 0x20 }),
		"no data":    datagramRecord(false, 0, 0, nil),
		"TCP":        datagramRecord(false, 0, 100, func(f []byte) { f[23] = 6 }),
		"padding":    datagramRecord(false, 0, 100, func(f []byte) { f[39]-- }),
	} {
		var j Joiner
		if !j.Start(r, true) {
			t.Fatalf("%s: refused", name)
		}
		if j.Add(r) {
			t.Errorf("%s was joined", name)
		}
		if out := bytes.Join(j.Finish(), nil); !bytes.Equal(out[HeaderLen:], r.Frame) || Parse(out).Type != TypeNone {
			t.Errorf("%s: another frame", name)
		}
	}
}

// TestOtherFlow: what may overtake a super-frame is of another flow, and nothing else is.
func TestOtherFlow(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		pick := func(v4At, v6At int) func(f []byte) {
			return func(f []byte) { f[map[bool]int{false: v4At, true: v6At}[v6]]++ }
		}
		var j Joiner
		j.Start(datagramRecord(v6, 0, 100, nil), true)
		for name, change := range map[string]func(f []byte){
			"source": pick(29, 37), "destination": pick(33, 53), "source port": pick(35, 55), "destination port": pick(37, 57),
		} {
			if !j.Other(datagramRecord(v6, 1, 100, change)) {
				t.Errorf("another %s is no other flow (IPv6 %v)", name, v6)
			}
		}
		for name, r := range map[string]Record{
			"the next":  datagramRecord(v6, 1, 100, nil),
			"longer":    datagramRecord(v6, 1, 200, nil),
			"its TTL":   datagramRecord(v6, 1, 100, pick(22, 21)),
			"an ARP":    {Frame: make([]byte, 60)},
			"too short": {Frame: datagramRecord(v6, 1, 0, nil).Frame[:34], NeedsChecksum: true, Start: datagramRecord(v6, 1, 0, nil).Start, Offset: 6},
			"no frame":  {Frame: []byte{1}, NeedsChecksum: true},
		} {
			if j.Other(r) {
				t.Errorf("%s is of another flow (IPv6 %v)", name, v6)
			}
		}
		if !j.Other(datagramRecord(!v6, 1, 100, nil)) {
			t.Errorf("another family is no other flow (IPv6 %v)", v6)
		}
	}
}
