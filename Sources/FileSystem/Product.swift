package enum Product {
    package static var version: String { "0.1.0" }
}
