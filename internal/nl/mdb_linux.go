package nl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func (h *handle) MDB() ([]MDBEntry, error) {
	entries, err := dumpMDB(h, unix.RTM_GETMDB, parseMDB) // the type in which bridges answer
	if err != nil {
		return nil, fmt.Errorf("list MDB: %w", err)
	}
	return entries, nil
}

// dumpMDB returns what parse finds in the MDBs of all bridges or VXLAN devices, told apart by the type of their messages:
// the kernel refuses to dump a single one.
func dumpMDB[E any](h *handle, typ uint16, parse func(entries []E, msg []byte) ([]E, error)) ([]E, error) {
	return dump(func() ([]E, error) {
		req := h.request(unix.RTM_GETMDB, unix.NLM_F_DUMP)
		req.AddRawData([]byte{afBridge, 0, 0, 0, 0, 0, 0, 0})
		msgs, err := req.Execute(unix.NETLINK_ROUTE, typ)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		var entries []E
		for _, m := range msgs {
			var broken error
			if entries, broken = parse(entries, m); broken != nil {
				return nil, broken
			}
		}
		return entries, err
	})
}

func (h *handle) SetGroup(e MDBEntry) error {
	err := h.changeMDB(e, unix.RTM_NEWMDB, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, true)
	if err != nil {
		return fmt.Errorf("set MDB entry %s: %w", e.Group, err)
	}
	return nil
}

func (h *handle) DeleteGroup(e MDBEntry) error {
	err := h.changeMDB(e, unix.RTM_DELMDB, 0, false)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete MDB entry %s: %w", e.Group, err)
	}
	return nil
}

func (h *handle) changeMDB(e MDBEntry, typ, flags int, withMode bool) error {
	body, err := appendSetMDB(nil, e, withMode)
	if err != nil {
		return err
	}
	req := h.request(typ, flags|unix.NLM_F_ACK)
	req.AddRawData(body)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
