package cni

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Versions of the specification that are answered, oldest first. The form of results changed with 0.3.0 (lists instead of one entry for
// each family) and 1.0.0 (no family beside an address); 1.1.0 added fields, GC and STATUS.
var versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const (
	latest = "1.1.0"
	// unsaid is the version of a configuration that names none (specification 0.2.0).
	unsaid = "0.1.0"
)

// since reports whether a version is at least another; both must be in versions.
func since(version, least string) bool {
	return slices.Index(versions, version) >= slices.Index(versions, least)
}

// maxConfig bounds what is read from standard input, in bytes. A configuration has some hundred, the list of a GC some hundred for each
// container.
const maxConfig = 4 << 20

// config is what the runtime writes to standard input: one plugin's part of a network configuration, and what it adds to it.
type config struct {
	Version   string `json:"cniVersion"`
	Name      string `json:"name"`
	Type      string `json:"type"`
	Network   string `json:"network"`   // the weft network; default: defaultNetwork
	Interface string `json:"interface"` // of a chained plugin, when the runtime's name is taken by one before it
	RunDir    string `json:"runDir"`    // where the daemon's socket is

	IPMasq bool `json:"ipMasq"`
	IPAM   struct {
		Type string `json:"type"`
	} `json:"ipam"`
	DNS  dns `json:"dns"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	Runtime struct {
		IPs     []string        `json:"ips"`
		Aliases json.RawMessage `json:"aliases"`
		MAC     string          `json:"mac"`
	} `json:"runtimeConfig"`
	Previous json.RawMessage `json:"prevResult"`
	Valid    []attachmentID  `json:"cni.dev/valid-attachments"`

	// unknown are keys that nobody knows, with their values.
	unknown map[string]json.RawMessage
}

// attachmentID is how a runtime names an attachment.
type attachmentID struct {
	Container string `json:"containerID"`
	Interface string `json:"ifname"`
}

// dns is the same in configurations and results.
type dns struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

func (d dns) empty() bool {
	return len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0
}

// known are the keys that may be in a configuration: ours, the specification's, and those of lists that runtimes leave in.
var known = []string{
	"cniVersion", "cniVersions", "name", "type", "network", "interface", "runDir", "ipMasq", "ipam", "dns", "args", "runtimeConfig",
	"capabilities", "prevResult", "disableCheck", "disableGC",
}

var (
	// The same as the reference library takes (ValidateNetworkName, ValidateContainerID).
	plainName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)
	// Stricter than the kernel, like the daemon: the name is written into paths under /proc/sys.
	interfaceName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.\-]{0,14}$`)
)

// readConfig reads what comes on standard input.
func readConfig(in io.Reader) (config, error) {
	b, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return config{}, errorf(CodeIO, "read the configuration from standard input: %w", err)
	}
	if len(b) > maxConfig {
		return config{}, errorf(CodeDecode, "the configuration is longer than %d bytes", maxConfig)
	}
	return parseConfig(b)
}

// parseConfig decodes a configuration. What is in it but must not be is left to check: DEL and GC clean up whatever else is wrong.
func parseConfig(b []byte) (config, error) {
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		return config{}, errorf(CodeDecode, "the configuration is not a JSON object as the specification has it: %w", err)
	}
	if err := json.Unmarshal(b, &c.unknown); err != nil || c.unknown == nil {
		return config{}, errorf(CodeDecode, "the configuration is not a JSON object: %.40q", b)
	}
	for k := range c.unknown {
		if slices.Contains(known, k) || strings.HasPrefix(k, "cni.dev/") {
			delete(c.unknown, k)
		}
	}
	if c.Version == "" {
		c.Version = unsaid
	}
	if c.Network == "" {
		c.Network = defaultNetwork
	}
	if !slices.Contains(versions, c.Version) {
		return c, errorf(CodeVersion, "cniVersion %q is not supported", c.Version).with("weft answers " + strings.Join(versions, ", "))
	}
	if !plainName.MatchString(c.Name) {
		return c, errorf(CodeConfig, "name %.80q: want letters, digits, '_', '.' and '-', a letter or digit first", c.Name)
	}
	return c, nil
}

// check refuses what is asked for and not done.
func (c config) check() error {
	unsupported := func(key string, value any, fix string) error {
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		return errorf(CodeUnsupported, "%s: %.200s is not supported", key, v).with(fix)
	}
	for _, k := range sorted(c.unknown) {
		return unsupported(k, c.unknown[k], "there is no such key; weft has network, interface, runDir, dns and what the specification names")
	}
	switch {
	case c.IPAM.Type != "" && c.IPAM.Type != pluginType:
		return unsupported("ipam.type", c.IPAM.Type, "the addresses must be weft's, or every host would give out the same ones: leave ipam out")
	case c.IPMasq:
		return unsupported("ipMasq", true, "a weft network has no way out; leave that to the container's other network")
	case c.Runtime.MAC != "":
		return unsupported("runtimeConfig.mac", c.Runtime.MAC, "the MAC follows from the address; leave the capability mac out")
	case c.Interface != "" && !interfaceName.MatchString(c.Interface):
		return errorf(CodeConfig, "interface %.40q: want 1 to 15 letters, digits, '_', '.' and '-'", c.Interface)
	}
	return nil
}

// aliases returns the names that the runtime knows the container by: a list (CONVENTIONS.md), or, from podman, lists by network.
func (c config) aliases() ([]string, error) {
	raw := bytes.TrimSpace(c.Runtime.Aliases)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var byNetwork map[string][]string
	if err := json.Unmarshal(raw, &byNetwork); err != nil {
		return nil, errorf(CodeConfig, "runtimeConfig.aliases: want a list of names: %w", err)
	}
	return byNetwork[c.Name], nil
}

// ips returns the addresses wanted, without prefix lengths. What is newer comes first, and what comes first counts alone.
func (c config) ips(args map[string]string) []string {
	lists := [][]string{c.Runtime.IPs, c.Args.CNI.IPs}
	if ip := args["IP"]; ip != "" {
		lists = append(lists, []string{ip})
	}
	for _, l := range lists {
		if len(l) == 0 {
			continue
		}
		out := make([]string, len(l))
		for i, v := range l {
			out[i], _, _ = strings.Cut(v, "/")
		}
		return out
	}
	return nil
}

// parseArgs reads CNI_ARGS, KEY=VALUE;KEY=VALUE.
func parseArgs(s string) (map[string]string, error) {
	out := map[string]string{}
	if s == "" {
		return out, nil
	}
	for pair := range strings.SplitSeq(s, ";") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, errorf(CodeEnvironment, "CNI_ARGS: %.80q is not KEY=VALUE", pair)
		}
		out[k] = v
	}
	if v := strings.ToLower(out["IgnoreUnknown"]); v == "1" || v == "true" {
		return out, nil
	}
	for _, k := range sorted(out) {
		if !slices.Contains([]string{"IP", "IgnoreUnknown", argPod, argNamespace}, k) {
			return nil, errorf(CodeEnvironment, "CNI_ARGS: %.80q is not supported", k).with("weft takes IP, and with IgnoreUnknown=1 ignores others")
		}
	}
	return out, nil
}

// What Kubernetes, and podman after its manner, say of a container in CNI_ARGS.
const (
	argPod       = "K8S_POD_NAME"
	argNamespace = "K8S_POD_NAMESPACE"
)
