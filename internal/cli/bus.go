package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/mcast"
	"github.com/weft-net/weft/internal/subject"
)

const busHelp = "bus (default: the cluster's own)"

func busFlag(c *cobra.Command, bus *string) {
	c.ValidArgsFunction = cobra.NoFileCompletions // a subject is no file
	c.Flags().StringVar(bus, "bus", client.ClusterBus, busHelp)
	busCompletion(c)
}

func busCompletion(c *cobra.Command) {
	_ = c.RegisterFlagCompletionFunc("bus", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{client.ClusterBus}, cobra.ShellCompDirectiveNoFileComp
	})
}

// message makes a message of what a person typed.
func message(subj string, payload []byte) client.BusMessage {
	m := client.BusMessage{Subject: subj}
	if utf8.Valid(payload) {
		m.Payload = string(payload)
	} else {
		m.PayloadBase64 = payload
	}
	return m
}

// headers reads NAME: VALUE.
func headers(given []string) (map[string][]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	out := map[string][]string{}
	for _, h := range given {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return nil, usagef("--header %q: want NAME: VALUE", h)
		}
		out[name] = append(out[name], strings.TrimSpace(value))
	}
	return out, nil
}

func checkSize(n int) error {
	if n > api.MaxBusPayload {
		return usagef("a message of %d bytes: at most %d", n, api.MaxBusPayload)
	}
	return nil
}

func (a *App) pub() *cobra.Command {
	var bus string
	var given []string
	c := &cobra.Command{
		Use: "pub SUBJECT [TEXT]", Short: "Publish a message, or each line of the input as one",
		Long: `Publish TEXT on SUBJECT; without TEXT, each line of the input as one message. It
goes to all that subscribe to SUBJECT on any host of the cluster, and to one of
each queue group.`,
		Args: words(1, 2, "SUBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := subject.Check(args[0]); err != nil {
				return &usageError{err}
			}
			fields, err := headers(given)
			if err != nil {
				return err
			}
			ctx, cancel := interruptible(cmd.Context())
			defer cancel()
			d := a.client()
			defer d.Close()
			var out client.BusPublished
			if len(args) == 2 {
				if err := checkSize(len(args[1])); err != nil {
					return err
				}
				m := message(args[0], []byte(args[1]))
				m.Headers = fields
				out, err = d.Publish(ctx, bus, m)
			} else {
				out, err = a.pubLines(ctx, d, bus, args[0], fields)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(out)
			}
			if out.Published > 0 && out.Wanted == 0 {
				fmt.Fprintf(a.Err, "weft: nobody subscribes to %s\n", args[0])
			}
			return nil
		},
	}
	busFlag(c, &bus)
	c.Flags().StringArrayVar(&given, "header", nil, "NAME: VALUE to send along; may be given several times")
	return c
}

// pubGather bounds what gathers, in bytes, while the daemon takes what was there before.
const pubGather = 512 << 10

// pubLines publishes lines as they come: those that came while the daemon was busy go together.
func (a *App) pubLines(ctx context.Context, d *client.Client, bus, subj string, fields map[string][]string) (total client.BusPublished, err error) {
	lines := make(chan []byte, 256)
	failed := make(chan error, 1)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(a.In)
		in.Buffer(nil, api.MaxBusPayload+1)
		for in.Scan() {
			select {
			case lines <- append([]byte{}, in.Bytes()...):
			case <-ctx.Done():
				return
			}
		}
		if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
			failed <- fmt.Errorf("a line of more than %d bytes", api.MaxBusPayload)
		} else if err != nil {
			failed <- fmt.Errorf("read the input: %w", err)
		}
	}()
	for {
		var batch []client.BusMessage
		size := 0
		line, more := []byte(nil), true
		select {
		case line, more = <-lines:
		case <-ctx.Done():
			return total, fmt.Errorf("stopped after %d messages", total.Published)
		}
		for more {
			m := message(subj, line)
			m.Headers = fields
			batch = append(batch, m)
			if size += len(line); size >= pubGather || len(batch) == api.MaxBusBatch {
				break
			}
			select {
			case line, more = <-lines:
				continue
			default:
			}
			break
		}
		if len(batch) > 0 {
			out, err := d.Publish(ctx, bus, batch...)
			if err != nil {
				return total, fmt.Errorf("after %d messages: %w", total.Published, err)
			}
			total.Published, total.Wanted = total.Published+out.Published, total.Wanted+out.Wanted
		}
		if !more {
			select {
			case err := <-failed:
				return total, fmt.Errorf("after %d messages: %w", total.Published, err)
			default:
				return total, nil
			}
		}
	}
}

// errEnough ends a subscription that has what it wanted.
var errEnough = errors.New("enough")

func (a *App) sub() *cobra.Command {
	var bus, queue string
	var count int
	var timeout time.Duration
	c := &cobra.Command{
		Use: "sub SUBJECT", Short: "Print messages as they come, one per line",
		Long: `Print the payload of each message on SUBJECT, which may have wildcards: * for one
word between dots, > at the end for one or more. With --json each message is a
line of JSON with its subject and headers.`,
		Args: words(1, 1, "SUBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := subject.CheckPattern(args[0]); err != nil {
				return &usageError{err}
			}
			switch {
			case count < 0:
				return usagef("-n %d: want 0 (no end) or more", count)
			case timeout < 0 || cmd.Flags().Changed("timeout") && timeout < time.Millisecond:
				return usagef("--timeout %v: want 1ms or more", timeout)
			}
			stopped, cancel := interruptible(cmd.Context())
			defer cancel()
			ctx := stopped
			if timeout > 0 {
				var end context.CancelFunc
				ctx, end = context.WithTimeout(stopped, timeout)
				defer end()
			}
			d := a.client()
			defer d.Close()
			show := a.shower()
			got := 0
			err := d.Subscribe(ctx, bus, args[0], queue, func(e client.BusEvent) error {
				switch {
				case e.Ready:
					fmt.Fprintf(a.Err, "subscribed to %s\n", args[0])
				case e.Dropped > 0:
					fmt.Fprintf(a.Err, "weft: %d messages dropped: this program reads too slowly\n", e.Dropped)
				case e.Message != nil:
					if err := show(e.Message); err != nil {
						return fmt.Errorf("write: %w", err)
					}
					if got++; count > 0 && got >= count {
						return errEnough
					}
				}
				return nil
			})
			switch {
			case errors.Is(err, errEnough):
				return nil
			case ctx.Err() != nil && stopped.Err() == nil && count > 0:
				return fmt.Errorf("%d of %d messages on %s within %v", got, count, args[0], timeout)
			case ctx.Err() != nil:
				return nil
			}
			return err
		},
	}
	busFlag(c, &bus)
	c.Flags().StringVar(&queue, "queue", "", "queue group: one of its members gets each message")
	c.Flags().IntVarP(&count, "count", "n", 0, "end after this many messages (0: no end)")
	c.Flags().DurationVar(&timeout, "timeout", 0, "end after this time; before -n messages came, that is a failure")
	return c
}

// shower prints messages: as JSON, or what they hold; on a terminal nothing that it would obey.
func (a *App) shower() func(*client.BusMessage) error {
	if a.json {
		e := json.NewEncoder(a.Out)
		e.SetEscapeHTML(false)
		return func(m *client.BusMessage) error { return e.Encode(m) }
	}
	harmless := isTerminal(a.Out)
	return func(m *client.BusMessage) error {
		b := m.PayloadBase64
		if len(b) == 0 {
			b = []byte(m.Payload)
		}
		if harmless {
			b = []byte(mcast.Harmless(b))
		}
		_, err := a.Out.Write(append(b[:len(b):len(b)], '\n'))
		return err
	}
}

func (a *App) request() *cobra.Command {
	var bus string
	var given []string
	timeout := api.DefaultRequestMS * time.Millisecond
	c := &cobra.Command{
		Use: "request SUBJECT TEXT", Short: "Publish a message and print the first answer", Args: words(2, 2, "SUBJECT and TEXT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := subject.Check(args[0]); err != nil {
				return &usageError{err}
			}
			if timeout < time.Millisecond || timeout > api.MaxRequestMS*time.Millisecond {
				return usagef("--timeout %v: want 1ms to 1m", timeout)
			}
			if err := checkSize(len(args[1])); err != nil {
				return err
			}
			fields, err := headers(given)
			if err != nil {
				return err
			}
			d := a.client()
			defer d.Close()
			r := client.BusRequest{BusMessage: message(args[0], []byte(args[1])), TimeoutMS: int(timeout.Milliseconds())}
			r.Headers = fields
			m, err := d.Request(cmd.Context(), bus, r)
			if err != nil {
				return err
			}
			return a.shower()(&m)
		},
	}
	busFlag(c, &bus)
	c.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for the answer, 1m at most")
	c.Flags().StringArrayVar(&given, "header", nil, "NAME: VALUE to send along; may be given several times")
	return c
}
