package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/apiserver"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/nats"
)

// checkNATS refuses what is not meant: a listener that everybody can reach and use.
func checkNATS(c config.Up) error {
	switch {
	case c.NATS == "" && (c.NATSTokenFile != "" || c.NATSCert != "" || c.NATSKey != "" || c.NATSOpen):
		return usage{errors.New("settings for NATS clients, and no listener: --nats ADDRESS:PORT")}
	case c.NATS == "":
		return nil
	case (c.NATSCert == "") != (c.NATSKey == ""):
		return usage{errors.New("TLS for NATS clients needs both: --nats-cert FILE --nats-key FILE")}
	}
	if err := nats.CheckAddr(c.NATS); err != nil {
		return usage{fmt.Errorf("--nats %s: %w", c.NATS, err)}
	}
	if nats.Exposed(c.NATS) && !c.NATSOpen && (c.NATSCert == "" || c.NATSTokenFile == "") {
		return usage{fmt.Errorf("--nats %s: other machines reach this address; give --nats-cert, --nats-key and --nats-token-file, or say that you mean it: --nats-open", c.NATS)}
	}
	return nil
}

// maxNATSToken is the longest token of NATS clients, in bytes.
const maxNATSToken = 1024

// listenNATS opens the listener for NATS clients and serves it once this host is on the bus.
func (s *System) listenNATS() error {
	cfg := nats.Config{Broker: s.bus.broker, Name: s.cfg.Name, Version: s.version, Log: s.log}
	if f := s.cfg.NATSTokenFile; f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("token of NATS clients: %w", err)
		}
		if cfg.Token = strings.TrimSpace(string(b)); cfg.Token == "" || len(cfg.Token) > maxNATSToken {
			return fmt.Errorf("token of NATS clients: %s: want 1 to %d bytes", f, maxNATSToken)
		}
	}
	if s.cfg.NATSCert != "" {
		pair, err := tls.LoadX509KeyPair(s.cfg.NATSCert, s.cfg.NATSKey)
		if err != nil {
			return fmt.Errorf("TLS for NATS clients: %w", err)
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	s.bus.nats = nats.New(cfg)
	if s.from == nil {
		l, err := nats.Listen(s.cfg.NATS, apiserver.Group)
		if err != nil {
			return err
		}
		s.go_(func() { s.serveNATS(l) })
		return nil
	}
	// The daemon whose place this one takes gives the address up when it ends.
	s.go_(func() {
		for began := time.Now(); ; {
			l, err := nats.Listen(s.cfg.NATS, apiserver.Group)
			if err == nil {
				s.serveNATS(l)
				return
			}
			if s.ctx.Err() != nil {
				return
			}
			if time.Since(began) > 2*leaveTime {
				s.trouble("nats", err.Error())
			}
			s.pauseBus()
		}
	})
	return nil
}

// serveNATS takes clients from when this host knows what the others want: until then they wait in the kernel.
func (s *System) serveNATS(l net.Listener) {
	s.trouble("nats", "")
	wait, cancel := context.WithTimeout(s.ctx, 2*busSettle)
	if done, err := s.bus.use(wait); err == nil {
		done()
	}
	cancel()
	s.log.Info("NATS clients may connect", "address", s.cfg.NATS)
	if err := s.bus.nats.Serve(s.ctx, l); err != nil {
		s.trouble("nats", err.Error())
	}
}
