package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The messages of Docker's plugin protocol, as dockerd 20.10 to 29 sends and reads them (moby: libnetwork/drivers/remote/api and
// libnetwork/ipams/remote/api). Fields that weft does not use are left out; unknown ones are ignored.

// Limits of a call.
const (
	maxBody   = 1 << 20 // bytes
	maxID     = 128     // characters of an id
	maxText   = 4096    // bytes of a path or an option
	maxList   = 64      // subnets of a network
	maxOption = 128     // options of a network
)

// Keys of Docker's options.
const (
	optGeneric = "com.docker.network.generic"
	optMTU     = "com.docker.network.driver.mtu"
	optGateway = "com.docker.network.gateway"
	optKind    = "RequestAddressType"
	foreign    = "com.docker." // the beginning of Docker's own
)

type (
	activation struct {
		Implements []string `json:"Implements"`
	}
	none struct{}

	networkCapability struct {
		Scope             string `json:"Scope"`
		ConnectivityScope string `json:"ConnectivityScope"`
		GwAllocChecker    bool   `json:"GwAllocChecker"`
	}
	gatewayCheck struct {
		SkipIPv4 bool `json:"SkipIPv4"`
		SkipIPv6 bool `json:"SkipIPv6"`
	}
	ipamData struct {
		AddressSpace string `json:"AddressSpace"`
		Pool         string `json:"Pool"`
	}
	createNetwork struct {
		NetworkID string                     `json:"NetworkID"`
		Options   map[string]json.RawMessage `json:"Options"`
		IPv4Data  []ipamData                 `json:"IPv4Data"`
		IPv6Data  []ipamData                 `json:"IPv6Data"`
	}
	networkCall struct {
		NetworkID string `json:"NetworkID"`
	}
	endpointInterface struct {
		Address     string `json:"Address"`
		AddressIPv6 string `json:"AddressIPv6"`
		MacAddress  string `json:"MacAddress"`
	}
	createEndpoint struct {
		NetworkID  string             `json:"NetworkID"`
		EndpointID string             `json:"EndpointID"`
		Interface  *endpointInterface `json:"Interface"`
	}
	createdEndpoint struct {
		Interface endpointInterface `json:"Interface"`
	}
	endpointCall struct {
		NetworkID  string `json:"NetworkID"`
		EndpointID string `json:"EndpointID"`
		SandboxKey string `json:"SandboxKey"`
	}
	operInfo struct {
		Value map[string]string `json:"Value"`
	}
	interfaceName struct {
		SrcName   string `json:"SrcName"`
		DstPrefix string `json:"DstPrefix"`
	}
	staticRoute struct {
		Destination string `json:"Destination"`
		RouteType   int    `json:"RouteType"` // 1: on the link
		NextHop     string `json:"NextHop"`
	}
	joined struct {
		InterfaceName interfaceName `json:"InterfaceName"`
		StaticRoutes  []staticRoute `json:"StaticRoutes"`
	}

	ipamCapability struct {
		RequiresMACAddress    bool `json:"RequiresMACAddress"`
		RequiresRequestReplay bool `json:"RequiresRequestReplay"`
	}
	addressSpaces struct {
		Local  string `json:"LocalDefaultAddressSpace"`
		Global string `json:"GlobalDefaultAddressSpace"`
	}
	requestPool struct {
		AddressSpace string            `json:"AddressSpace"`
		Pool         string            `json:"Pool"`
		SubPool      string            `json:"SubPool"`
		Options      map[string]string `json:"Options"`
		V6           bool              `json:"V6"`
	}
	givenPool struct {
		PoolID string            `json:"PoolID"`
		Pool   string            `json:"Pool"`
		Data   map[string]string `json:"Data"`
	}
	addressCall struct {
		PoolID  string            `json:"PoolID"`
		Address string            `json:"Address"`
		Options map[string]string `json:"Options"`
	}
	givenAddress struct {
		Address string            `json:"Address"`
		Data    map[string]string `json:"Data"`
	}
)

// parse reads a call's body. One without a body is one without fields: Docker sends none where there is nothing to say.
func parse(body []byte, v any) error {
	if len(strings.TrimSpace(string(body))) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("not a call of Docker's plugin protocol: %w", err)
	}
	return nil
}

// checkID refuses what is no id of Docker's: they are made of letters and digits.
func checkID(what, id string) error {
	if id == "" {
		return fmt.Errorf("the call names no %s", what)
	}
	if len(id) > maxID || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return fmt.Errorf("%s %.40q: not an id", what, id)
	}
	return nil
}

// generic are the options of docker network create -o, in a network's Options. Values are texts; some versions write truths and
// numbers plainly.
func generic(options map[string]json.RawMessage) (map[string]string, error) {
	raw, ok := options[optGeneric]
	if !ok {
		return nil, nil
	}
	var values map[string]any
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, errors.New("the network's options are not an object")
	}
	if len(values) > maxOption {
		return nil, fmt.Errorf("%d options, at most %d", len(values), maxOption)
	}
	out := make(map[string]string, len(values))
	for k, v := range values {
		out[k] = fmt.Sprint(v)
		if len(k) > maxText || len(out[k]) > maxText {
			return nil, fmt.Errorf("option %.40q is longer than %d bytes", k, maxText)
		}
	}
	return out, nil
}
