package cast

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-net/weft/internal/bubbletest"
	"github.com/weft-net/weft/internal/fdb"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/wire"
)

// inRig runs a test with n hosts of MTU 1400 under fake time, keys handed over.
func inRig(t *testing.T, n int, f func(*testing.T, *rig)) { inRigOf(t, n, 1400, nil, f) }

func inRigOf(t *testing.T, n, mtu int, change func(*Config), f func(*testing.T, *rig)) {
	t.Helper()
	bubbletest.Run(t, func(t *testing.T) {
		r := newRig(t, n, mtu, change)
		defer r.close()
		r.tick(time.Second)
		r.sent(0)
		f(t, r)
	})
}

func TestUnicastGoesToOneHost(t *testing.T) {
	inRig(t, 3, func(t *testing.T, r *rig) {
		f := unicast(1, 2, 600)
		r.host(1).tap.in <- f
		r.host(1).tap.in <- unicast(1, 99, 600)
		synctest.Wait()
		r.host(2).want("unicast", f)
		r.host(3).want("unicast to another")
		r.host(1).want("own frame")
		r.host(1).wantDrop("unknown_unicast", 1)
		if p := r.sent(wire.TypeLink); len(p) != 1 {
			t.Errorf("%d link packets, want 1", len(p))
		}
	})
}

func TestGroupGoesToMembersSealedOnce(t *testing.T) {
	inRig(t, 5, func(t *testing.T, r *rig) {
		a := r.host(1)
		a.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"), join(4, "239.1.1.1"))
		before := (*a.eng.networks.Load())[testVNI].key.Load().Used()
		f := multicast(1, "239.1.1.1", 700)
		a.tap.in <- f
		synctest.Wait()
		for n := 2; n <= 4; n++ {
			r.host(n).want("group", f)
		}
		r.host(5).want("group without member")
		if used := (*a.eng.networks.Load())[testVNI].key.Load().Used() - before; used != 1 {
			t.Errorf("%d seals for one frame", used)
		}
		sent := r.sent(wire.TypeGroup)
		if len(sent) != 3 {
			t.Fatalf("%d group packets, want 3", len(sent))
		}
		for _, p := range sent {
			if !bytes.Equal(p.data, sent[0].data) {
				t.Error("receivers get different bytes")
			}
			if bytes.Contains(p.data, f[40:80]) {
				t.Error("the frame is readable on the wire")
			}
		}
		rows := a.eng.Groups()
		if len(rows) != 1 || rows[0].PacketsIn != 1 || rows[0].BytesIn != 700 || rows[0].CopiesSent != 3 || rows[0].CopiesSaved != 1 {
			t.Errorf("sender counts %+v, want 1 packet, 3 copies sent, 1 saved", rows)
		}
	})
}

func TestReceiverCounts(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		for _, h := range r.hosts {
			h.members(join(2, "239.1.1.1"))
		}
		r.host(1).tap.in <- multicast(1, "239.1.1.1", 700)
		synctest.Wait()
		rows := r.host(2).eng.Groups()
		if len(rows) != 1 || rows[0].PacketsOut != 1 || rows[0].BytesOut != 700 || rows[0].PacketsIn != 0 {
			t.Errorf("receiver counts %+v", rows)
		}
	})
}

func TestGroupWithoutMembersStaysHome(t *testing.T) {
	inRig(t, 4, func(t *testing.T, r *rig) {
		r.host(1).tap.in <- multicast(1, "239.8.8.8", 700)
		synctest.Wait()
		if p := r.sent(wire.TypeGroup); len(p) != 0 {
			t.Errorf("%d packets for a group without members", len(p))
		}
		r.host(1).wantDrop("no_member", 1)
		if n := r.host(1).eng.Networks()[0]; n.Unregistered.CopiesSaved != 3 || n.Hosts != 3 {
			t.Errorf("counts %+v, want 3 copies saved", n)
		}
	})
}

func TestSourceLists(t *testing.T) {
	inRig(t, 4, func(t *testing.T, r *rig) {
		s1 := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		other := []netip.Addr{netip.MustParseAddr("10.0.0.77")}
		g := netip.MustParseAddr("232.1.1.1")
		r.host(1).members(
			fdb.Member{Host: idOf(2), Group: g, Mode: fdb.Include, Sources: s1},
			fdb.Member{Host: idOf(3), Group: g, Mode: fdb.Exclude, Sources: s1},
			fdb.Member{Host: idOf(4), Group: g, Mode: fdb.Include, Sources: other},
		)
		f := multicast(1, "232.1.1.1", 100)
		r.host(1).tap.in <- f
		synctest.Wait()
		r.host(2).want("included", f)
		r.host(3).want("excluded")
		r.host(4).want("not included")
	})
}

// 9000-byte packets over an IPv6-minimum underlay: nothing vanishes, in both ways of sealing.
func TestFragments(t *testing.T) {
	inRigOf(t, 3, 9000, nil, func(t *testing.T, r *rig) {
		a := r.host(1)
		a.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		p := *a.peers[idOf(3)].Path()
		p.Payload = wire.MinPath
		a.peers[idOf(3)].SetPath(&p)
		var frames [][]byte
		for _, size := range []int{1185, 1186, 1192, 1193, 1472, 2500, 9014} {
			frames = append(frames, multicast(1, "239.1.1.1", size))
		}
		for _, f := range frames {
			a.tap.in <- f
		}
		synctest.Wait()
		r.host(2).want("group in fragments", frames...)
		r.host(3).want("group in fragments, small path", frames...)
		for _, p := range r.sent(wire.TypeGroup) {
			if len(p.data) > wire.MinPath {
				t.Errorf("packet of %d bytes, the path takes %d", len(p.data), wire.MinPath)
			}
		}
		one := unicast(1, 3, 9014)
		a.tap.in <- one
		synctest.Wait()
		r.host(3).want("unicast in fragments", one)
		if sent := r.sent(wire.TypeLink); len(sent) != 8 {
			t.Errorf("%d fragments, want 8", len(sent))
		}
	})
}

func TestTooBigFrameIsDropped(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		r.host(1).tap.in <- unicast(1, 2, 1414)
		r.host(1).tap.in <- unicast(1, 2, 1415)
		synctest.Wait()
		r.host(2).want("largest", unicast(1, 2, 1414))
		r.host(1).wantDrop("too_big", 1)
	})
}

func TestDuplicatesAreDeliveredOnce(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		r.host(1).members(join(2, "239.1.1.1"))
		f := multicast(1, "239.1.1.1", 100)
		r.host(1).tap.in <- f
		synctest.Wait()
		p := r.sent(wire.TypeGroup)[0]
		for range 3 {
			r.host(2).in <- datagram{endpoint(1), bytes.Clone(p.data)}
		}
		changed := bytes.Clone(p.data)
		changed[13] ^= 1 // the counter: fresh, but not what was sealed
		r.host(2).in <- datagram{endpoint(1), changed}
		synctest.Wait()
		r.host(2).want("duplicates", f)
		r.host(2).wantDrop("replay", 3)
		r.host(2).wantDrop("forged", 1)
	})
}

// A host cannot speak in a network with the key of another, nor in one it does not have.
func TestWrongNetwork(t *testing.T) {
	inRig(t, 3, func(t *testing.T, r *rig) {
		a, b := r.host(1), r.host(2)
		f := multicast(1, "239.1.1.1", 100)
		pkt := make([]byte, 200)
		n := copy(pkt[wire.GroupHeader:], plaintext(f))
		copy(pkt[wire.GroupHeader:], []byte{wire.KindFrame, 0, 0, 9})
		sealed, err := (*a.eng.networks.Load())[testVNI].key.Load().SealGroup(pkt, n, 0)
		check(t, err)
		b.in <- datagram{endpoint(1), bytes.Clone(sealed)}
		synctest.Wait()
		b.wantDrop("wrong_vni", 1)

		plain := plaintext(unicast(3, 2, 100))
		check(t, b.eng.SetHosts(testVNI, []ident.HostID{idOf(1)}))
		check(t, r.host(3).send(idOf(2), plain))
		synctest.Wait()
		b.wantDrop("not_of_network", 1)
		plain[3] = 1
		check(t, r.host(3).send(idOf(2), plain))
		synctest.Wait()
		b.wantDrop("no_network", 1)
		b.want("frames of other networks")
	})
}

// A frame under another host's MAC, or an IGMP query, does not get in whoever sealed it.
func TestForgedInnerFrames(t *testing.T) {
	inRig(t, 3, func(t *testing.T, r *rig) {
		check(t, r.host(1).send(idOf(2), plaintext(unicast(3, 2, 100))))
		query := multicast(1, "224.0.0.1", 60)
		query[23] = 2
		check(t, r.host(1).send(idOf(2), plaintext(query)))
		check(t, r.host(1).send(idOf(2), plaintext(query[:10])))
		synctest.Wait()
		r.host(2).want("forged frames")
		r.host(2).wantDrop("wrong_source", 1)
		r.host(2).wantDrop("igmp", 1)
		r.host(2).wantDrop("short_frame", 1)
	})
}

func TestRelayed(t *testing.T) {
	inRig(t, 4, func(t *testing.T, r *rig) {
		a := r.host(1)
		a.relay(3, 2)
		a.relay(4, 2)
		a.members(join(3, "239.1.1.1"), join(4, "239.1.1.1"), join(2, "239.1.1.1"))
		big, f := unicast(1, 3, 1414), multicast(1, "239.1.1.1", 1414)
		a.tap.in <- big
		a.tap.in <- f
		synctest.Wait()
		r.host(2).want("direct", f)
		r.host(3).want("relayed", big, f)
		r.host(4).want("relayed", f)
		for _, p := range r.sent(wire.TypeRelay) {
			if len(p.data) > 1472 {
				t.Errorf("envelope of %d bytes on a path of 1472", len(p.data))
			}
		}
	})
}

func TestNoPathIsCountedPerCopy(t *testing.T) {
	inRig(t, 4, func(t *testing.T, r *rig) {
		a := r.host(1)
		a.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		a.peers[idOf(3)].SetPath(nil)
		f := multicast(1, "239.1.1.1", 100)
		a.tap.in <- f
		a.tap.in <- unicast(1, 3, 100)
		synctest.Wait()
		r.host(2).want("group", f)
		a.wantDrop("no_path", 2)
	})
}

func TestFloodIsLimited(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		check(t, r.host(1).eng.SetRate(testVNI, 10))
		r.host(1).members(join(2, "239.1.1.1"))
		for range 30 {
			r.host(1).tap.in <- multicast(1, "224.0.0.251", 100)
			r.host(1).tap.in <- multicast(1, "239.1.1.1", 100)
		}
		synctest.Wait()
		if got := len(r.host(2).tap.got()); got != 40 {
			t.Errorf("%d frames, want 10 of the flood and 30 of the group", got)
		}
		r.host(1).wantDrop("rate_limit", 20)
		time.Sleep(500 * time.Millisecond)
		for range 30 {
			r.host(1).tap.in <- multicast(1, "224.0.0.251", 100)
		}
		synctest.Wait()
		if got := len(r.host(2).tap.got()); got != 5 {
			t.Errorf("%d frames after half a second at 10 a second, want 5", got)
		}
	})
}

// The key's hand-over is lost: packets wait, the receiver asks, they are delivered in order.
func TestHeldUntilKeyArrives(t *testing.T) {
	bubbletest.Run(t, func(t *testing.T) {
		r := newRig(t, 2, 1400, nil)
		defer r.close()
		r.losing(func(from, _ int, kind byte) bool { return from == 1 && kind == 100+wire.KindSenderKey })
		// A fresh network on host 1: a key that host 2 never heard of.
		a := r.host(1)
		check(t, a.eng.RemoveNetwork(testVNI))
		a.tap = newTAP()
		check(t, a.eng.AddNetwork(testVNI, a.tap, 1400))
		check(t, a.eng.SetHosts(testVNI, r.ids()))
		a.members(join(2, "239.1.1.1"))
		synctest.Wait()
		r.host(2).tap.got()
		time.Sleep(askPause) // the lost offer counts as the latest answer
		r.losing(nil)
		f1, f2 := multicast(1, "239.1.1.1", 100), multicast(1, "239.1.1.1", 1000)
		a.tap.in <- f1
		a.tap.in <- f2
		synctest.Wait()
		r.host(2).want("held and asked for", f1, f2)
		r.host(2).wantDrop("unknown_key", 0)
	})
}

func TestHeldPacketsAreBoundedInNumberAndTime(t *testing.T) {
	inRig(t, 3, func(t *testing.T, r *rig) {
		b := r.host(2)
		junk := make([]byte, 200)
		wire.PutGroup(junk, 0, 4711, 1)
		for range maxHeld + 6 {
			b.in <- datagram{endpoint(1), bytes.Clone(junk)}
		}
		b.in <- datagram{netip.MustParseAddrPort("203.0.113.250:1"), bytes.Clone(junk)}
		synctest.Wait()
		b.wantDrop("unknown_key", 7) // beyond the bound, and a stranger's
		if asked := len(r.sent(wire.TypeLink)); asked != 1 {
			t.Errorf("%d questions for one key", asked)
		}
		time.Sleep(holdTime + time.Millisecond)
		check(t, r.host(1).send(idOf(2), []byte{wire.KindPing})) // any packet leads to a Flush
		synctest.Wait()
		b.wantDrop("unknown_key", maxHeld+7)
	})
}

// Frames flow while the key changes on time: none is lost, none comes twice.
func TestRotationLosesNothing(t *testing.T) {
	inRigOf(t, 3, 1400, func(c *Config) { c.Rotation = 2 * time.Second }, func(t *testing.T, r *rig) {
		a := r.host(1)
		a.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		r.lose = func(_, _ int, kind byte) bool {
			return kind == 100+wire.KindSenderKey && time.Now().UnixMilli()%700 < 250
		}
		var sent [][]byte
		for i := range 100 {
			f := multicast(1, "239.1.1.1", 100+i)
			sent = append(sent, f)
			a.tap.in <- f
			r.tick(100 * time.Millisecond)
		}
		r.host(2).want("rotation", sent...)
		r.host(3).want("rotation", sent...)
		if n := a.eng.Networks()[0].Rotations; n < 3 {
			t.Errorf("%d rotations in 11 s, want 3 or more", n)
		}
	})
}

// A host that gives the network up cannot read what is sent afterwards; the others miss nothing.
func TestRemovalChangesKey(t *testing.T) {
	inRig(t, 3, func(t *testing.T, r *rig) {
		a, b, c := r.host(1), r.host(2), r.host(3)
		a.members(join(2, "239.1.1.1"), join(3, "239.1.1.1"))
		old := (*a.eng.networks.Load())[testVNI].key.Load().KeyID()
		check(t, a.eng.SetHosts(testVNI, []ident.HostID{idOf(2)}))
		r.tick(100 * time.Millisecond)
		if (*a.eng.networks.Load())[testVNI].key.Load().KeyID() == old {
			t.Fatal("same key after a host was removed and all others acknowledged")
		}
		f := multicast(1, "239.1.1.1", 100)
		a.tap.in <- f // the table still names host 3: worst case
		r.tick(300 * time.Millisecond)
		check(t, a.send(idOf(3), []byte{wire.KindPing})) // any packet leads to a Flush
		synctest.Wait()
		b.want("after removal", f)
		c.want("removed host")
		c.wantDrop("unknown_key", 1)
	})
}

// A host that is not of the network any more cannot send to it, although its key was known.
func TestRemovedHostIsNotHeard(t *testing.T) {
	inRig(t, 2, func(t *testing.T, r *rig) {
		r.host(1).members(join(2, "239.1.1.1"))
		check(t, r.host(2).eng.SetHosts(testVNI, nil))
		r.host(1).tap.in <- multicast(1, "239.1.1.1", 100)
		synctest.Wait()
		r.host(2).want("group of a removed host")
		r.host(2).wantDrop("unknown_key", 1)
	})
}

func TestNetworksComeAndGo(t *testing.T) {
	inRig(t, 1, func(t *testing.T, r *rig) {
		e := r.host(1).eng
		for _, c := range []struct {
			vni uint32
			mtu int
		}{{0, 1400}, {1 << 24, 1400}, {5, 1279}, {5, 9001}, {testVNI, 1400}} {
			if err := e.AddNetwork(c.vni, newTAP(), c.mtu); err == nil {
				t.Errorf("VNI %d with MTU %d accepted", c.vni, c.mtu)
			}
		}
		check(t, e.RemoveNetwork(testVNI))
		for _, err := range []error{e.RemoveNetwork(testVNI), e.SetTable(testVNI, nil), e.SetHosts(testVNI, nil), e.SetRate(testVNI, 1)} {
			if !errors.Is(err, ErrNetwork) {
				t.Errorf("%v, want ErrNetwork", err)
			}
		}
		pulled := newTAP()
		check(t, e.AddNetwork(testVNI, pulled, 1400))
		check(t, pulled.Close()) // with its bridge
		check(t, e.RemoveNetwork(testVNI))
		check(t, e.AddNetwork(testVNI, newTAP(), 1400))
		check(t, e.Close())
		if err := e.AddNetwork(6, newTAP(), 1400); !errors.Is(err, ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	})
}
