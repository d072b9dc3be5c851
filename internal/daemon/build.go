package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/docker"
	"github.com/weft-net/weft/internal/ethersock"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/mesh"
	"github.com/weft-net/weft/internal/snapshot"
	"github.com/weft-net/weft/internal/state"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/udp"
)

// open takes the socket of the API and the state directory: as they lie there, or from the daemon that runs.
func (s *System) open() (*apiserver.Listener, error) {
	ln, err := apiserver.Listen(s.cfg.RunDir)
	if errors.Is(err, apiserver.ErrRunning) {
		if s.from, err = s.inherit(err); err == nil && s.from == nil {
			ln, err = listen(s.ctx, s.cfg.RunDir, stopTime)
		}
	}
	if err != nil {
		return nil, err
	}
	if s.from == nil {
		if s.dir, err = store.Open(s.cfg.StateDir); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
		return ln, nil
	}
	if ln, err = apiserver.Adopt(s.cfg.RunDir, s.from.files[snapshot.UseAPI]); err != nil {
		s.from.abort(err)
		return nil, err
	}
	ln.Give() // until the other has said Go
	lock := s.from.files[snapshot.UseLock]
	delete(s.from.files, snapshot.UseLock)
	if s.dir, err = store.Adopt(s.cfg.StateDir, lock); err != nil {
		s.from.abort(err)
		return nil, errors.Join(err, ln.Close(), lock.Close())
	}
	return ln, nil
}

// udpOptions are those of the underlay's socket.
var udpOptions = udp.Options{Coalesce: true}

// sockets opens the underlay's socket and the listener of streams.
func (s *System) sockets() (udp.Conn, *net.TCPListener, error) {
	if s.from != nil {
		return s.from.sockets()
	}
	conn, err := udp.Listen(s.cfg.Port, udpOptions)
	if err != nil {
		return nil, nil, fmt.Errorf("UDP port %d: %w (another weft, or --port)", s.cfg.Port, err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{Port: s.cfg.Port})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("TCP port %d: %w", s.cfg.Port, err), conn.Close())
	}
	return conn, tcp, nil
}

// identify tells who this host is: as it was, by the token it was given, or as the founder of a cluster. What is fresh is
// not on disk yet.
func (s *System) identify() (keys ident.Keys, fresh bool, err error) {
	token, err := s.token()
	if err != nil {
		return keys, false, err
	}
	s.id, keys, fresh, err = settle(s.dir, s.cfg, token)
	if err != nil {
		return keys, false, err
	}
	s.cfg.Name = s.id.Name
	s.dir.SetOwner(keys.ID())
	if s.id.Founding {
		err = s.checkRange(s.cfg.Range, "choose another with --range")
	}
	return keys, fresh, err
}

func (s *System) token() (*ident.Token, error) {
	text := s.cfg.Token
	if text == "" && s.cfg.TokenFile != "" {
		b, err := os.ReadFile(s.cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
		text = string(b)
	}
	if text == "" {
		return nil, nil
	}
	t, err := ident.ParseToken(text)
	if err != nil {
		return nil, usage{err}
	}
	return &t, nil
}

// build makes all parts; nothing talks yet.
func (s *System) build(keys ident.Keys) (err error) {
	tables, err := s.recallTables(keys)
	if err != nil {
		return err
	}
	s.joining = true
	for range tables.All(state.Cluster, keyCluster) {
		s.joining = false
	}
	if s.underlay, err = newUnderlay(s.ctx, s.log); err != nil {
		return err
	}
	if err := s.buildDiscovery(); err != nil {
		return err
	}
	if s.conn, s.tcp, err = s.sockets(); err != nil {
		return errors.Join(err, s.finder.close())
	}
	defer func() {
		if err != nil {
			_ = s.conn.Close()
			_ = s.tcp.Close()
			_ = s.finder.close()
		}
	}()
	if s.guard, err = newGuardian(s.cfg.Port, s.log); err != nil {
		return err
	}
	if s.vnet, err = s.newVNet(); err != nil {
		return err
	}
	if s.docker, err = docker.New(docker.Config{Weft: dockerHost{s}, Store: s.twice(fileDocker), Log: s.log}); err != nil {
		return err
	}
	s.containers = s.newContainers()
	if s.from != nil {
		s.inheritDocker()
	}
	s.probePlain = patient(s.vnet.ProbePlain)
	s.leases = newLeases(s, keys.ID())
	s.ipam = s.newIPAM(keys.ID())
	s.ipam.Hold(s.leases.why)
	s.names = s.newNames()
	if s.cast, err = s.newCast(keys.ID()); err != nil {
		return err
	}
	if s.frames, err = ethersock.NewSender(); err != nil {
		return err
	}
	s.endpoint = s.newEndpoint()
	s.bus = s.newClusterBus()
	s.bares = &bares{s: s, here: map[string]*bareHere{}}
	s.swarm = newSwarmNets(s)
	advertise, err := s.advertised()
	if err != nil {
		return err
	}
	s.mesh, err = mesh.New(mesh.Config{
		Keys: keys, Cluster: s.id.Cluster, Token: s.id.Secret, Founder: s.id.Founder, Name: s.id.Name, Build: s.version,
		Port: uint16(s.cfg.Port), Advertise: advertise, Seeds: s.id.Seeds,
		Conn: s.conn, Listener: s.tcp, Underlay: s.underlay, Tables: tables, Persist: persister{s.dir}, Datapath: s.cast, Log: s.log,
		Services: s.streamServices(), Handle: s.control, Changed: s.onChanged, HostChanged: s.onHost,
		Rejected: s.reject, Removed: s.onRemoved,
	})
	if err != nil {
		return err
	}
	allowed := s.mesh.Allowed
	s.allowed.Store(&allowed)
	return nil
}
