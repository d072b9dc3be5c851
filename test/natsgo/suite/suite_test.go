package suite

import (
	_ "github.com/golang/protobuf/proto" // what those tests import, so that go.mod keeps it
	_ "github.com/nats-io/jwt/v2"
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nkeys"
	_ "github.com/nats-io/nuid"
	_ "github.com/synadia-io/orbit.go/ntf"
	_ "github.com/synadia-io/orbit.go/ntf-client"
	_ "google.golang.org/protobuf/proto"
)
