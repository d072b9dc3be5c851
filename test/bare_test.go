package test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/test/rig"
)

const (
	bareGroup = "225.4.5.6"
	barePort  = "5000"
	ruby      = "/usr/bin/ruby"
)

// lanScript is a script on a LAN that knows a group and nothing of weft.
type lanScript struct {
	*rig.Process
	t  *testing.T
	at *rig.Host
}

func bareSub(t *testing.T, at *rig.Host, language, file string) lanScript {
	t.Helper()
	p := at.Start(language, script(t, file), "sub", bareGroup, barePort)
	p.ExpectLine("^ready$", 10*time.Second)
	return lanScript{p, t, at}
}

// once waits until each text has come, and fails when one has come twice.
func (s lanScript) once(d time.Duration, texts ...string) {
	s.t.Helper()
	rig.Eventually(s.t, d, func() error {
		for _, text := range texts {
			if s.Count("^got "+regexp.QuoteMeta(text)+"$") == 0 {
				return fmt.Errorf("%s on %s did not get %q", s, s.at.Name, text)
			}
		}
		return nil
	})
	for _, text := range texts {
		if n := s.Count("^got " + regexp.QuoteMeta(text) + "$"); n != 1 {
			s.t.Errorf("%s on %s got %q %d times", s, s.at.Name, text, n)
		}
	}
}

// numbered makes texts.
func numbered(name string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", name, i))
	}
	return out
}

// bareBus is what a host says of the bus.
func bareBus(h *rig.Host) (api.Bare, error) {
	var b api.Bus
	if err := h.JSON(&b, "bus", "show", "chat"); err != nil {
		return api.Bare{}, err
	}
	return *b.Bare, nil
}

// passing waits until exactly one of the hosts of a LAN passes datagrams, and returns it and the others.
func passing(t *testing.T, lan ...*rig.Host) (it *rig.Host, others []*rig.Host) {
	t.Helper()
	rig.Eventually(t, 15*time.Second, func() error {
		it, others = nil, nil
		for _, h := range lan {
			b, err := bareBus(h)
			switch {
			case err != nil:
				return err
			case !b.Bridging:
				others = append(others, h)
			case it != nil:
				return fmt.Errorf("%s and %s both pass datagrams", it.Name, h.Name)
			default:
				it = h
			}
		}
		if it == nil {
			return fmt.Errorf("nobody passes datagrams of the LAN of %s", lan[0].Name)
		}
		for _, h := range others {
			if b, _ := bareBus(h); b.Bridge != it.Name {
				return fmt.Errorf("%s takes %q for the one that passes, and it is %s", h.Name, b.Bridge, it.Name)
			}
		}
		return nil
	})
	return it, others
}

// TestBare: scripts of ten lines on two LANs, in Ruby and Python, with a cloud between that drops multicast; two hosts of weft on
// one of the LANs, one on the other. Everything arrives once: told by the scripts, and by captures of both LANs.
func TestBare(t *testing.T) {
	t.Parallel()
	cloud := rig.New(t).Cloud()
	a, b := cloud.Segment("lana", rig.LANOptions{}), cloud.Segment("lanb", rig.LANOptions{})
	h1, h2, h3 := a.Host("h1"), a.Host("h2"), b.Host("h3")
	sa, sb := a.Host("sa"), b.Host("sb") // machines without weft
	rig.MulticastProbe(t, sa, sb)
	rig.Found(t, h1, h2, h3)
	for _, h := range []*rig.Host{h1, h2, h3} {
		if r := h.Weft("bus", "create", "chat", "--bare", bareGroup+":"+barePort); r.Code != 0 || !strings.Contains(r.Stderr, "not encrypted") {
			t.Fatalf("bus create: %+v", r)
		}
	}
	onA, waits := passing(t, h1, h2)
	passing(t, h3)
	bareRefusals(t, h1, h3)

	inA, inB := bareSub(t, sa, ruby, "bare.rb"), bareSub(t, sb, python, "bare.py")
	onHost := bareSub(t, h3, python, "bare.py") // on the host that passes: the port is free for it
	weftSub := waits[0].StartWeft("sub", "bare.chat")
	rig.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(strings.Join(weftSub.Errors(), "\n"), "subscribed") {
			return fmt.Errorf("%s is not subscribed", weftSub)
		}
		return nil
	})
	awaitBus(t, h1, h2, h3)
	capA, capB := a.Capture(sa), b.Capture(sb)

	const n = 100
	fromA, fromB, fromWeft, fromHost := numbered("ruby", n), numbered("python", n), numbered("weft", n), numbered("host", n)
	sa.MustExec(append([]string{ruby, script(t, "bare.rb"), "pub", bareGroup, barePort}, fromA...)...)
	sb.MustExec(append([]string{python, script(t, "bare.py"), "pub", bareGroup, barePort}, fromB...)...)
	h3.MustExec(append([]string{python, script(t, "bare.py"), "pub", bareGroup, barePort}, fromHost...)...)
	if r := waits[0].WeftInput(strings.Join(fromWeft, "\n")+"\n", "pub", "bare.chat"); r.Code != 0 {
		t.Fatalf("weft pub: %+v", r)
	}
	for _, s := range []lanScript{inA, inB, onHost} {
		for _, texts := range [][]string{fromA, fromB, fromWeft, fromHost} {
			s.once(15*time.Second, texts...)
		}
	}
	for _, texts := range [][]string{fromA, fromB, fromWeft, fromHost} {
		for _, text := range texts {
			rig.Eventually(t, 5*time.Second, func() error {
				if weftSub.Count("^"+text+"$") != 1 {
					return fmt.Errorf("weft sub printed %q %d times", text, weftSub.Count("^"+text+"$"))
				}
				return nil
			})
		}
	}
	// Nothing goes round, however long one waits.
	rig.Pause(t, time.Second)
	for name, c := range map[string]*rig.Capture{"a": capA, "b": capB} {
		c.Stop()
		if got := c.Count("udp and dst host " + bareGroup + " and dst port " + barePort); got != 4*n {
			t.Errorf("LAN %s carried %d datagrams of the group, want %d", name, got, 4*n)
		}
	}
	bareFaults(t, onA, waits[0], h3, inA, inB)
}

// bareRefusals: what is wrong is said by name, and nothing is made.
func bareRefusals(t *testing.T, h1, h3 *rig.Host) {
	t.Helper()
	for want, args := range map[string][]string{
		"is here already":             {"bus", "create", "chat", "--bare", "225.4.5.6:5000"},
		"on the same interface":       {"bus", "create", "chat2", "--bare", "225.4.5.6:5000"},
		"there is none of that name":  {"bus", "create", "pit", "--bare", "225.4.5.7:5000", "--iface", "eth9"},
		"no interface has the":        {"bus", "create", "pit", "--bare", "225.4.5.7:5000", "--iface", "192.0.2.1"},
		"its messages are on the":     {"pub", "bare.chat", "x", "--bus", "chat"},
		"no bus \"pit\"":              {"bus", "show", "pit"},
		"is the cluster's own":        {"bus", "rm", "weft"},
		"wildcards are for subscript": {"bus", "create", "pit", "--bare", "225.4.5.7:5000", "--subject", "pit.>"},
	} {
		if r := h1.Weft(args...); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%v: %+v, want %q", args, r, want)
		}
	}
	h1.MustWeft("bus", "create", "pit", "--bare", "225.4.5.7:5000", "--iface", h1.IP.String())
	rig.Eventually(t, 10*time.Second, func() error {
		if r := h3.Weft("bus", "create", "pit", "--bare", "225.4.5.7:5001"); r.Code == 0 || !strings.Contains(r.Stderr, "on host h1") {
			return fmt.Errorf("another group by the same name: %+v", r)
		}
		return nil
	})
	h1.MustWeft("bus", "rm", "pit")
}

// bareFaults: the host that passes is killed and another goes on; it comes back with its bus; a message that is too long is counted; the
// one that passes is upgraded; a bus that was removed is silent.
func bareFaults(t *testing.T, onA, waits, h3 *rig.Host, inA, inB lanScript) {
	t.Helper()
	onA.Kill9()
	began := time.Now()
	rig.Eventually(t, 15*time.Second, func() error {
		if b, err := bareBus(waits); err != nil || !b.Bridging {
			return fmt.Errorf("%s does not take over: %+v, %w", waits.Name, b, err)
		}
		return nil
	})
	t.Logf("%s passes %v after the kill of %s", waits.Name, time.Since(began).Round(10*time.Millisecond), onA.Name)
	inA.at.MustExec(ruby, script(t, "bare.rb"), "pub", bareGroup, barePort, "after the kill")
	inB.once(10*time.Second, "after the kill")

	onA.Restart()
	rig.Eventually(t, 20*time.Second, func() error {
		if b, err := bareBus(onA); err != nil || !b.Here || b.Bridging || b.Bridge != waits.Name {
			return fmt.Errorf("%s came back and is %+v, %w", onA.Name, b, err)
		}
		return nil
	})
	awaitBus(t, onA, waits, h3)
	inB.at.MustExec(python, script(t, "bare.py"), "pub", bareGroup, barePort, "after the restart")
	inA.once(10*time.Second, "after the restart")

	if r := h3.WeftInput(strings.Repeat("x", 70_000)+"\n", "pub", "bare.chat"); r.Code != 0 {
		t.Errorf("a long message on the bus: %+v", r)
	}
	rig.Eventually(t, 10*time.Second, func() error {
		if b, err := bareBus(waits); err != nil || b.Drops["too_large"] != 1 {
			return fmt.Errorf("a message longer than a datagram: %v, %w", b.Drops, err)
		}
		return nil
	})

	// Two daemons of one host for a moment: still one passes.
	waits.Upgrade(waits.WeftPath(), "--replace")
	passing(t, onA, waits)
	awaitBus(t, onA, waits, h3)
	inB.at.MustExec(python, script(t, "bare.py"), "pub", bareGroup, barePort, "after the upgrade")
	inA.once(10*time.Second, "after the upgrade")

	h3.MustWeft("bus", "rm", "chat")
	inB.at.MustExec(python, script(t, "bare.py"), "pub", bareGroup, barePort, "nobody passes this")
	h3.MustWeft("pub", "bare.chat", "only for a")
	inA.once(10*time.Second, "only for a")
	if n := inA.Count("nobody passes this") + inB.Count("only for a"); n != 0 {
		t.Errorf("%d datagrams passed by a host whose bus was removed", n)
	}
}
