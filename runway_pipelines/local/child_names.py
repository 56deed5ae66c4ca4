"""The names that the synthetic children have, the frequent ones first; some families have two, as in Spanish."""

FIRST_NAMES = tuple(
    """
    Mateo Sofía José María Liam Olivia Noah Emma Santiago Isabella Ángel Camila Juan Valentina Luis Ximena Elijah
    Ava James Mia Carlos Luna Daniel Ana Jesús Victoria Benjamin Amelia Lucas Charlotte Jayden Jaden Diego Daniela
    Miguel Fernanda Alexander Evelyn Ethan Harper Sebastián Guadalupe David Elena Logan Abigail Gabriel Natalia
    Michael Emily Samuel Ella Jackson Elizabeth Aiden Camille Andrés Renata Joseph Sophia Owen Scarlett Kevin Grace
    Emiliano Chloé Christopher Lily Adrián Aria Isaac Layla Nathan Zoe Caleb Nora Ryan Hannah Leonardo Mariana
    Anthony Jocelyn Dylan Addison Joshua Leah Iker Regina Aaron Brianna Omar Kayla Jamal Aaliyah DeShawn Imani
    D'Angelo Destiny Malik Nia Tyler Savannah Hunter Paisley Colton Autumn Wyatt Hazel Farid Elif Ivo Lena Björn
    Hana Kenji Mei Wei Linh Minh Thuy Arjun Priya Ravi Anaya Yusuf Amina Ibrahim Fatima Tomás Ada Kaya Quinn
    """.split()  # noqa: SIM905 - a name on each line would be pages
)
SPANISH_LAST_NAMES = tuple(
    """
    García Hernández López Martínez Rodríguez González Pérez Sánchez Ramírez Torres Flores Rivera Gómez Díaz Reyes
    Morales Cruz Ortiz Gutiérrez Chávez Ramos Ruiz Mendoza Álvarez Castillo Jiménez Vásquez Romero Moreno Herrera
    Medina Aguilar Vargas Guzmán Méndez Muñoz Salazar Garza Soto Vega
    """.split()  # noqa: SIM905 - a name on each line would be pages
)
OTHER_LAST_NAMES = tuple(
    """
    Smith Johnson Williams Brown Jones Davis Miller Wilson Anderson Thomas Taylor Moore Jackson Martin Lee Thompson
    White Harris Clark Lewis Robinson Walker Young Allen King Wright Scott Hill Green Adams Nelson Baker Hall
    Campbell Mitchell Carter Roberts Nguyen Phillips Evans Turner Parker Collins Edwards Stewart Morris Murphy Cook
    Rogers Morgan Peterson Cooper Reed Bailey Bell Kelly Howard Ward Cox Richardson Wood Watson Brooks Bennett Gray
    James Hughes Price Myers Long Foster Sanders Ross Powell Sullivan Russell Jenkins Perry Butler Barnes Fisher
    Patel Tran Kim Chen Haddad Iyer Jensen O'Neill Abara Brandt Dvořák Eze Fischer Kowalski Okafor Singh Yamamoto
    """.split()  # noqa: SIM905 - a name on each line would be pages
)
