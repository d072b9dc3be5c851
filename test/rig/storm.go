package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// maxDatagram is the longest datagram that a storm sends, in bytes.
const maxDatagram = 1400

// Datagrams returns the UDP payloads that a capture recorded, IPv4 without options only, at most limit of them.
func (c *Capture) Datagrams(limit int) [][]byte {
	c.w.T.Helper()
	f, err := os.Open(c.file)
	if err != nil {
		c.w.T.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const fileHeader, recordHeader, ether, ip, udp = 24, 16, 14, 20, 8
	if _, err := io.ReadFull(f, make([]byte, fileHeader)); err != nil {
		c.w.T.Fatalf("read capture: %v", err)
	}
	var all [][]byte
	for head := make([]byte, recordHeader); len(all) < limit; {
		if _, err := io.ReadFull(f, head); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(head[8:])
		if n > 1<<18 {
			break
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(f, packet); err != nil {
			break
		}
		if len(packet) <= ether+ip+udp || packet[12] != 8 || packet[13] != 0 || packet[ether] != 0x45 || packet[ether+9] != 17 {
			continue
		}
		all = append(all, packet[ether+ip+udp:])
	}
	return all
}

// Storm sends count datagrams from a host to address: recorded ones as they were, cut and changed, and random bytes under
// each first byte. The seed repeats it.
func Storm(t testing.TB, from *Host, address string, count int, seed uint64, recorded [][]byte) {
	t.Helper()
	f, err := os.CreateTemp(from.w.dir, "storm")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range recorded {
		_ = binary.Write(f, binary.BigEndian, uint32(len(d)))
		_, _ = f.Write(d)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := from.rigProgram("storm", address, strconv.Itoa(count), strconv.FormatUint(seed, 10), f.Name())
	if code := p.Wait(2 * time.Minute); code != 0 {
		t.Fatalf("storm: %v", p.Errors())
	}
}

// storm is the program behind Storm.
func storm(address, times, seed, file string) error {
	count, err1 := strconv.Atoi(times)
	s, err2 := strconv.ParseUint(seed, 10, 64)
	recorded, err3 := readDatagrams(file)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	random := rand.New(rand.NewPCG(s, 0))
	buf := make([]byte, maxDatagram)
	for i := range count {
		if _, err := c.Write(draw(random, recorded, buf)); err != nil && i == 0 {
			return fmt.Errorf("send: %w", err)
		}
		if i%200 == 199 { // about 20,000 a second: what a receiver on half a core can read
			tick := time.NewTimer(10 * time.Millisecond)
			<-tick.C
		}
	}
	return nil
}

// draw makes one datagram of a storm in buf.
func draw(random *rand.Rand, recorded [][]byte, buf []byte) []byte {
	fill := func(b []byte) []byte {
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	how := random.IntN(5)
	if len(recorded) == 0 || how == 0 {
		b := fill(buf[:random.IntN(len(buf)+1)])
		if len(b) > 0 && random.IntN(2) == 0 {
			b[0] = byte(random.IntN(24)) // near the types there are
		}
		return b
	}
	r := recorded[random.IntN(len(recorded))]
	b := buf[:copy(buf, r)]
	switch how {
	case 1: // replayed
	case 2: // cut
		b = b[:random.IntN(len(b)+1)]
	case 3: // changed in one bit
		if len(b) > 0 {
			b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		}
	case 4: // head of one, the rest random
		if len(b) > 0 {
			fill(b[random.IntN(len(b)):])
		}
	}
	return b
}

func readDatagrams(file string) ([][]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for len(b) >= 4 {
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, errors.New("storm file: cut short")
		}
		all = append(all, b[:n])
		b = b[n:]
	}
	return all, nil
}

// DialAndSend connects from a host by TCP, sends payload and returns how many bytes came back within 2 s and whether the
// connection was accepted.
func DialAndSend(t testing.TB, from *Host, address string, payload []byte) (got int, accepted bool) {
	t.Helper()
	f, err := os.CreateTemp(from.w.dir, "tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write(payload)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := from.rigProgram("tcp", address, f.Name())
	line := p.ExpectLine("^tcp ", 10*time.Second)
	if _, err := fmt.Sscanf(line, "tcp %t %d", &accepted, &got); err != nil {
		t.Fatal(err)
	}
	return got, accepted
}

// dialAndSend is the program behind DialAndSend.
func dialAndSend(address, file string) error {
	payload, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stdout, "tcp false 0")
		return nil
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	_, _ = c.Write(payload) // refused in the middle is an answer too
	n, _ := io.Copy(io.Discard, c)
	_, _ = fmt.Fprintln(os.Stdout, "tcp true", n)
	return nil
}
