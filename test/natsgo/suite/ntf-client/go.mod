module github.com/synadia-io/orbit.go/ntf-client

go 1.26.0
