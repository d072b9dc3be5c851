package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxLines is where a file is refused; 80 to 300 is usual, 600 a question.
const maxLines = 1000

type source struct {
	path string // relative to the module
	file *ast.File
	text []byte
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// sources parses every Go file of the module, whatever system it is for.
func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var all []source
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin" || n == "tools") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, source{path: filepath.ToSlash(rel), file: f, text: text})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fset, all
}

func TestFileSize(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if n := bytes.Count(s.text, []byte("\n")); n > maxLines {
			t.Errorf("%s: %d lines, at most %d: cut it where two ideas meet", s.path, n, maxLines)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t, "linux") {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		rel := relative(p.ImportPath)
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + rel[strings.LastIndexByte(rel, '/')+1:] + " "
		}
		if !strings.HasPrefix(p.Doc, want) || !strings.HasSuffix(strings.TrimSpace(p.Doc), ".") {
			t.Errorf("%s: open the package with one sentence %q..., ending in a full stop", rel, want)
		}
	}
}

func TestNoVagueNames(t *testing.T) {
	_, all := sources(t)
	vague := []string{"util", "utils", "helper", "helpers", "common", "manager", "misc", "types"}
	for _, s := range all {
		base := strings.TrimSuffix(s.path[strings.LastIndexByte(s.path, '/')+1:], ".go")
		for part := range strings.SplitSeq(base, "_") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: name the file after what it holds", s.path)
			}
		}
	}
}

// calls reports every call pkg.name() in a file.
func calls(f *ast.File, pkg string, names ...string) []token.Pos {
	var at []token.Pos
	ast.Inspect(f, func(n ast.Node) bool {
		c, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := c.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains(names, sel.Sel.Name) {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && (pkg == "" || id.Name == pkg) {
			at = append(at, c.Pos())
		}
		return true
	})
	return at
}

// imports reports whether a file imports path.
func imports(f *ast.File, path string) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+path+`"` })
}

// TestNoSleepInTests: a sleep used as a wait is a flaky test. Inside a bubble (bubbletest) time is fake and Sleep
// is how one advances it.
func TestNoSleepInTests(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if !s.isTest() && !strings.HasPrefix(s.path, "test/") || imports(s.file, "testing/synctest") || imports(s.file, module+"/internal/bubbletest") {
			continue
		}
		for _, at := range calls(s.file, "time", "Sleep") {
			t.Errorf("%s: time.Sleep: wait for what you wait for, with a deadline", fset.Position(at))
		}
	}
}

// TestBubbles finds bubbles on several threads, which the race detector does not bear: package bubbletest says why.
func TestBubbles(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if strings.HasPrefix(s.path, "internal/bubbletest/") {
			continue
		}
		for _, at := range calls(s.file, "synctest", "Test") {
			t.Errorf("%s: synctest.Test: bubbletest.Run does it on one thread", fset.Position(at))
		}
	}
}

// TestNoSkip: a test that can be skipped is one nobody misses.
func TestNoSkip(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if !s.isTest() && !strings.HasPrefix(s.path, "test/") {
			continue
		}
		for _, recv := range []string{"t", "b", "f", "tb"} {
			for _, at := range calls(s.file, recv, "Skip", "Skipf", "SkipNow") {
				t.Errorf("%s: a test says what it lacks by failing", fset.Position(at))
			}
		}
	}
}

// TestEveryDecoderIsFuzzed: whoever exports a function that makes values of bytes in a codec or a core owns a Fuzz
// target that calls something with that name. The rule knows a decoder by name and signature: Parse…, Decode… or
// Unmarshal… taking a []byte; texts (JSON and the like) are left to the library that calls us.
func TestEveryDecoderIsFuzzed(t *testing.T) {
	fset, all := sources(t)
	called := map[string]map[string]bool{} // package folder -> names that fuzz files use
	for _, s := range all {
		if !s.isTest() || !bytes.Contains(s.text, []byte("func Fuzz")) {
			continue
		}
		dir := s.path[:strings.LastIndexByte(s.path, '/')]
		if called[dir] == nil {
			called[dir] = map[string]bool{}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				called[dir][id.Name] = true
			}
			return true
		})
	}
	for _, s := range all {
		i := strings.LastIndexByte(s.path, '/')
		if s.isTest() || i < 0 {
			continue
		}
		dir := s.path[:i]
		if l, ok := layerOf(dir); !ok || l > core || rail(dir) {
			continue
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !fn.Name.IsExported() || !decodes(fn) {
				continue
			}
			if !called[dir][fn.Name.Name] {
				t.Errorf("%s: %s decodes bytes and no Fuzz target in %s calls it", fset.Position(fn.Pos()), fn.Name.Name, dir)
			}
		}
	}
}

func decodes(fn *ast.FuncDecl) bool {
	name := fn.Name.Name
	if !slices.ContainsFunc([]string{"Parse", "Decode", "Unmarshal"}, func(p string) bool { return strings.HasPrefix(name, p) }) ||
		name == "UnmarshalText" || name == "UnmarshalJSON" {
		return false
	}
	for _, p := range fn.Type.Params.List {
		if a, ok := p.Type.(*ast.ArrayType); ok && a.Len == nil {
			if id, ok := a.Elt.(*ast.Ident); ok && id.Name == "byte" {
				return true
			}
		}
	}
	return false
}
