// The tests of NATS's own Go client, as they are in its module, and in place of the helper that starts nats-servers for
// them one that starts weft's listener: see ../natsgo_test.go. Nothing of theirs is copied here.
module github.com/weft-net/weft/test/natsgo/suite

go 1.26.0

require (
	github.com/nats-io/jwt/v2 v2.8.2
	github.com/nats-io/nats.go v1.55.0
	github.com/nats-io/nkeys v0.4.16
	github.com/nats-io/nuid v1.0.1
	github.com/synadia-io/orbit.go/ntf v0.0.0
	github.com/synadia-io/orbit.go/ntf-client v0.0.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/golang/protobuf v1.5.4
	github.com/klauspost/compress v1.20.0 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace (
	github.com/synadia-io/orbit.go/ntf => ./ntf
	github.com/synadia-io/orbit.go/ntf-client => ./ntf-client
)
