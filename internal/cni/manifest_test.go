package cni

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The network that deploy/ tells Multus of is one that the plugin takes.
func TestMultusManifest(t *testing.T) {
	b, err := os.ReadFile("../../deploy/multus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var doc struct {
			Kind string
			Spec struct{ Config string }
		}
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if doc.Kind != "NetworkAttachmentDefinition" {
			continue
		}
		found++
		c, err := parseConfig([]byte(doc.Spec.Config))
		if err == nil {
			err = c.check()
		}
		if err != nil || c.Type != pluginType || c.Network != "party" {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if found != 1 {
		t.Errorf("%d definitions", found)
	}
}
